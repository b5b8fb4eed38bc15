-- Makes the partitions that one month of sales needs, unless they exist.
--
-- Reads   the catalog
-- Writes  empty partitions of sales, staging.sales and staging.stores for :sale_month
-- Twice?  Yes. What exists is left as it is.
select pipeline.prepare_month(%(sale_month)s::date);
