-- Replaces one month of monthly_sales.
--
-- Reads   sales (the partition of :sale_month), stores
-- Writes  monthly_sales: the rows of :sale_month, all of them
-- Twice?  Yes. The month is deleted and inserted in one transaction; a second run of it waits for the first.

select pipeline.lock_month(%(sale_month)s::date);

delete from public.monthly_sales
where sale_month = %(sale_month)s::date;

-- A store that is unknown by now leaves location null, which the table refuses: no sale is dropped in silence.
insert into public.monthly_sales (store_idx, location, sale_month, value)
with sales_of_month as (
    select
        store_idx,
        sum(value) as total
    from public.sales
    where
        date >= %(sale_month)s::date
        and date < (%(sale_month)s::date + interval '1 month')::date
    group by store_idx
)

select
    sales_of_month.store_idx,
    stores.location,
    %(sale_month)s::date as sale_month,
    sales_of_month.total
from sales_of_month
left join public.stores
    on sales_of_month.store_idx = stores.idx;

select
    pipeline.report(concat(
        'monthly_sales of ', %(sale_month)s::date, ': ', count(*), ' stores, total ', coalesce(sum(value), 0)
    ))
from public.monthly_sales
where sale_month = %(sale_month)s::date;
