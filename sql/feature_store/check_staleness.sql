-- Decides whether the run rebuilds the features: always if it was triggered by hand, otherwise if they are stale. The
-- daily run leaves out what was rejected.
--
-- Reads       pipeline.feature_sources
-- Writes      nothing
-- Idempotent  Yes. It only reads.

select
    %(run_type)s::text = 'manual'
    or (is_stale and (rejection is null or %(run_type)s::text <> 'scheduled')) as is_needed
from pipeline.feature_sources;
