-- Ends the loads that no run continues, and drops what loads have left in schema staging.
--
-- Reads       pipeline.loads, the list of tables in staging
-- Writes      pipeline.loads: loads whose session is gone, that nobody decided on, or that were not published for 30
--             days, are failed; staging
-- Idempotent  Yes. A load is failed once, and a table is dropped once. The ledger loses no row.

select pipeline.clean_up();

select
    concat(
        count(staged), ' staged tables are left, ', pg_size_pretty(coalesce(sum(pg_total_relation_size(staged)), 0)),
        '; the ledger has ', count(*), ' loads'
    ) as report
from pipeline.loads
left join lateral to_regclass(loads.staged_table) as staged
    on true;
