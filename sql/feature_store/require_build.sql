-- Fails if the rebuild was rejected; otherwise opens the features to their readers, when they have rows for the first
-- time. It runs after the commit, so that the rejection stays recorded.
--
-- Reads       pipeline.rejected_builds, feature_store
-- Writes      the privileges on feature_history and feature_store, once
-- Idempotent  Yes. Features that are open stay as they are.

select pipeline.reject(error)
from pipeline.rejected_builds;

select pipeline.open_feature_store();
