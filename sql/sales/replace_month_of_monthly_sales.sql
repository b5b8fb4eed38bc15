-- Replaces one month of monthly_sales.
--
-- Reads   sales (the partition of :sale_month), stores
-- Writes  monthly_sales: the rows of :sale_month, all of them; pipeline.file_loads: the month's total
-- Twice?  Yes. The month is deleted and inserted in one transaction; a second run of it waits for the first.

select pipeline.lock_month(%(sale_month)s::date);

delete from public.monthly_sales
where sale_month = %(sale_month)s::date;

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
    on sales_of_month.store_idx = stores.idx
-- No sale is dropped in silence, should a store be gone by now.
where
    stores.idx is not null
    or pipeline.refuse(concat(
        'monthly_sales of ', %(sale_month)s::date, ': store ', sales_of_month.store_idx, ' has sales but is not in',
        ' stores any more, and its location is needed; the month stays as it was. When stores.csv has the store again,',
        ' clear this run.'
    )) is null;

with aggregated as (
    select
        count(*) as store_count,
        coalesce(sum(value), 0) as total
    from public.monthly_sales
    where sale_month = %(sale_month)s::date
),

load_of_month as (
    update pipeline.file_loads
    set
        total = aggregated.total,
        aggregated_at = clock_timestamp()
    from aggregated, pipeline.current_loads as latest
    where
        file_loads.load_id = latest.load_id
        and latest.table_name = 'sales'
        and latest.sale_month = %(sale_month)s::date
    returning file_loads.row_count
)

select
    pipeline.report(concat(
        'monthly_sales of ', %(sale_month)s::date, ': ', aggregated.store_count, ' stores, total ', aggregated.total,
        ', of ' || load_of_month.row_count || ' sales'
    ))
from aggregated
left join load_of_month
    on true;

-- A statement of its own, to see the total that was just noted.
select pipeline.report_change(load_id)
from pipeline.current_loads
where
    table_name = 'sales'
    and sale_month = %(sale_month)s::date;
