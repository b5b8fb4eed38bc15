-- Empties staging of the customer files once they are published.
--
-- Reads   pipeline.file_loads
-- Writes  staging.customer_profiles, staging.customer_activity, staging.labels: empties them, unless another run has
--         staged files there that are not published yet
-- Twice?  Yes. Empty stays empty.
select pipeline.discard_staged(null);
