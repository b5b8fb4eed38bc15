-- Renews the statistics of all months of each monthly table together, which autovacuum does not.
--
-- Reads       a sample of the tables
-- Writes      their statistics. Readers do not wait; a load that adds a month waits for seconds.
-- Idempotent  Yes. It reads another sample.

select pipeline.analyze_months();

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
