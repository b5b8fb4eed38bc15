-- Empties staging of one month once it is published.
--
-- Reads   pipeline.file_loads
-- Writes  staging.sales, staging.stores (the partitions of :sale_month): empties each, unless it holds a file that was
--         refused or is not published yet
-- Twice?  Yes. Empty stays empty.

select pipeline.discard_staged('sales', %(sale_month)s::date);

select pipeline.discard_staged('stores', %(sale_month)s::date);
