-- Renews the statistics of all months of sales together, which autovacuum does not.
--
-- Reads   a sample of sales
-- Writes  the statistics of sales. Readers do not wait; a load that publishes at the same time waits for seconds.
-- Twice?  Yes. It reads another sample.

select pipeline.analyze_sales();

select concat('statistics of sales: ', count(*), ' months, ', coalesce(sum(row_count), 0), ' rows') as report
from pipeline.loads
where
    table_name = 'sales'
    and outcome = 'published';
