-- Fails if the rebuild was rejected. It runs after the commit, so that the rejection stays recorded.
--
-- Reads       pipeline.rejected_builds
-- Writes      nothing
-- Idempotent  Yes. It only reads.

select pipeline.reject(error)
from pipeline.rejected_builds;
