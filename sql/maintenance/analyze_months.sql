-- Renews the statistics of all months of each monthly table together, which autovacuum does not.
--
-- Reads       a sample of the tables
-- Writes      their statistics, under SHARE UPDATE EXCLUSIVE. Readers do not wait; a load that adds a month waits for
--             seconds.
-- Idempotent  Yes. It reads another sample.

do $$
declare
    monthly text;
begin
    -- Each load has analyzed its own rows. PostgreSQL 17 reads all partitions again.
    for monthly in select table_name from pipeline.sources where is_monthly loop
        execute concat(
            'analyze ', case when current_setting('server_version_num')::integer >= 180000 then 'only ' end, 'public.',
            quote_ident(monthly)
        );
    end loop;
end
$$;

with monthly as (
    select
        file_rows.table_name,
        count(*) as months,
        sum(loads.row_count) as row_count
    from pipeline.loads
    inner join pipeline.file_rows
        on loads.file_id = file_rows.file_id
    where
        file_rows.is_monthly
        and loads.status = 'published'
    group by file_rows.table_name
)

select
    concat(
        'statistics: ',
        string_agg(concat(table_name, ' ', months, ' months, ', row_count, ' rows'), '; ' order by table_name)
    ) as report
from monthly;
