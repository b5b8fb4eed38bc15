-- Decides whether the run builds the feature store: always if it was triggered by hand, otherwise if it is stale.
--
-- Reads   pipeline.stale_tables
-- Writes  nothing
-- Twice?  Yes. It only reads.

select
    %(run_type)s::text = 'manual'
    or exists (
        select
        from pipeline.stale_tables
        where table_name = 'feature_store'
    ) as is_needed;
