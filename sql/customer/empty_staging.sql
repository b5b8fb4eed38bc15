-- Empties staging of the customer files once they are published.
--
-- Reads   pipeline.file_loads
-- Writes  staging.customer_profiles, staging.customer_activity, staging.labels: empties each, unless it holds a file
--         that was refused or is not published yet
-- Twice?  Yes. Empty stays empty.

select pipeline.discard_staged('customer_profiles', null);

select pipeline.discard_staged('customer_activity', null);

select pipeline.discard_staged('labels', null);
