-- Renews the statistics of all months of sales together, which autovacuum does not.
--
-- Reads       a sample of sales
-- Writes      the statistics of sales. Readers do not wait; a load that adds a month waits for seconds.
-- Idempotent  Yes. It reads another sample.

select pipeline.analyze_sales();

select concat('statistics of sales: ', count(*), ' months, ', coalesce(sum(loads.row_count), 0), ' rows') as report
from pipeline.loads
inner join pipeline.files
    on loads.file_id = files.file_id
where
    files.table_name = 'sales'
    and loads.status = 'published';
