-- Replaces one month of sales with the file that was staged for it, without moving a row.
--
-- Reads   pipeline.sales_by_store, stores, pipeline.file_loads
-- Writes  sales: the rows dated in :sale_month, all of them; pipeline.file_loads: that :sales_load is published
-- Twice?  Yes. The month is deleted and inserted in one transaction; a second run of it waits for the first, and a
--         load that is published already is left as it is.

select pipeline.lock_month(%(sale_month)s::date);

-- From here on nobody can stage another file under this transaction.
select pipeline.lock_staged_month(%(sale_month)s::date);

select pipeline.require_checked(%(sales_load)s::bigint, coalesce(sum(row_count), 0)::bigint)
from pipeline.sales_by_store
where load_id = %(sales_load)s::bigint;

-- The month was checked with its own stores.csv; another month may have published a newer one since.
with unknown_stores as (
    select
        sold.store_idx,
        sold.row_count,
        sold.first_sale
    from pipeline.sales_by_store as sold
    left join public.stores as known
        on sold.store_idx = known.idx
    where
        sold.load_id = %(sales_load)s::bigint
        and known.idx is null
)

select
    pipeline.refuse(concat(
        'sales of ', %(sale_month)s::date, ': ', sum(row_count), ' rows are of ', count(*),
        ' stores that the newest stores.csv lacks, the first of them: idx ', min(first_sale), ' of store ',
        (array_agg(store_idx order by first_sale))[1],
        '. monthly_sales needs their location, so the month stays as it was. When stores.csv has them again, clear',
        ' this run.'
    ))
from unknown_stores
having count(*) > 0;

-- Deletes the month: drops its partition, if it has one. From here to the commit, some milliseconds, readers of sales
-- wait; a first load makes nobody wait.
select pipeline.delete_month_of_sales(sale_month)
from pipeline.file_loads
where
    load_id = %(sales_load)s::bigint
    and outcome = 'checked';

-- Inserts the month: the table that it is staged in becomes its partition.
select pipeline.insert_month_of_sales(sale_month)
from pipeline.file_loads
where
    load_id = %(sales_load)s::bigint
    and outcome = 'checked';

select pipeline.mark_published(load_id)
from pipeline.file_loads
where
    load_id = %(sales_load)s::bigint
    and outcome = 'checked';
