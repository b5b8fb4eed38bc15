-- Decides whether the run rebuilds the features: always if it was triggered by hand, otherwise if they are stale and no
-- rebuild from the same loads was rejected.
--
-- Reads       pipeline.feature_sources
-- Writes      nothing
-- Idempotent  Yes. It only reads.

select
    %(run_type)s::text = 'manual'
    or (is_stale and not is_rejected) as is_needed
from pipeline.feature_sources;
