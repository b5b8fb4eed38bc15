-- Drops what loads have left in schema staging that neither a run nor a person needs any more.
--
-- Reads   pipeline.loads, the list of tables in staging
-- Writes  pipeline.loads: loads whose session is gone, or that were not published for 30 days, are failed; staging
-- Twice?  Yes. A load is failed once, and a table is dropped once. The ledger loses no row.

update pipeline.loads
set
    outcome = 'failed',
    problem = case
        when outcome = 'loading' then 'The process that loaded the file was killed.'
        else 'The run did not publish the rows in 30 days, so they were dropped. Clear it to load the file again.'
    end,
    changed_at = clock_timestamp()
where
    (outcome = 'loading' and not pipeline.is_running(load_id))
    or (outcome in ('staged', 'checked') and changed_at < now() - interval '30 days');

-- Rejected rows stay until the file is loaded again, as the verdict says.
select pipeline.discard_staged(loads.load_id)
from pipeline.loads
where
    (
        loads.outcome in ('waiting', 'failed', 'published')
        or (loads.outcome = 'superseded' and not pipeline.is_needed(loads.load_id))
    )
    and to_regclass(loads.staged_table) is not null;

select
    concat(
        count(staged), ' staged tables are left, ', pg_size_pretty(coalesce(sum(pg_total_relation_size(staged)), 0)),
        '; the ledger has ', count(*), ' loads'
    ) as report
from pipeline.loads
left join lateral to_regclass(loads.staged_table) as staged
    on true;
