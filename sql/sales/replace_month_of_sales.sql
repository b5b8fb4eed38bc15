-- Replaces one month of sales with the file that was staged for it.
--
-- Reads   staging.sales (the partition of :sale_month), stores, pipeline.file_loads
-- Writes  sales: the rows dated in :sale_month, all of them; pipeline.file_loads: that :load_id is published
-- Twice?  Yes. The month is deleted and inserted in one transaction; a second run of it waits for the first.

select pipeline.lock_month(%(sale_month)s::date);

-- From here on staging cannot be emptied under this transaction: the count holds a lock on the partition.
select pipeline.require_checked(%(load_id)s::bigint, count(*))
from staging.sales
where sale_month = %(sale_month)s::date;

-- The month was checked with its own stores.csv; another month may have published a newer one since.
with unknown_stores as (
    select
        sold.store_idx,
        count(*) as row_count,
        min(sold.idx) as first_sale
    from staging.sales as sold
    left join public.stores as known
        on sold.store_idx = known.idx
    where
        sold.sale_month = %(sale_month)s::date
        and known.idx is null
    group by sold.store_idx
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

delete from public.sales
where
    date >= %(sale_month)s::date
    and date < (%(sale_month)s::date + interval '1 month')::date;

insert into public.sales (idx, value, date, store_idx)
select
    idx,
    value,
    date,
    store_idx
from staging.sales
where sale_month = %(sale_month)s::date;

select pipeline.mark_published(%(load_id)s::bigint);
