-- Replaces one month of monthly_sales.
--
-- Reads   pipeline.sales_by_store (the sums of the load that sales holds for :sale_month), stores
-- Writes  monthly_sales: the rows of :sale_month, all of them; pipeline.file_loads: the month's total;
--         pipeline.sales_by_store: the sums of the month's earlier loads go
-- Twice?  Yes. The month is deleted and inserted in one transaction; a second run of it waits for the first.

select pipeline.lock_month(%(sale_month)s::date);

-- The sums were taken when the load was checked, from the very rows that are published.
with sums as (
    select
        latest.row_count as published_rows,
        coalesce(sum(sold.row_count), 0) as summed_rows
    from pipeline.current_loads as latest
    left join pipeline.sales_by_store as sold
        on latest.load_id = sold.load_id
    where
        latest.table_name = 'sales'
        and latest.sale_month = %(sale_month)s::date
    group by latest.load_id, latest.row_count
)

select
    pipeline.refuse(concat(
        'monthly_sales of ', %(sale_month)s::date, ': sales has ', published_rows, ' rows of the month, but the sums',
        ' by store that were kept are of ', summed_rows, '; the month stays as it was. Clear the whole run, which sums',
        ' it anew.'
    ))
from sums
where published_rows <> summed_rows;

delete from public.monthly_sales
where sale_month = %(sale_month)s::date;

insert into public.monthly_sales (store_idx, location, sale_month, value)
with sales_of_month as (
    select
        sold.store_idx,
        sold.total
    from pipeline.current_loads as latest
    inner join pipeline.sales_by_store as sold
        on latest.load_id = sold.load_id
    where
        latest.table_name = 'sales'
        and latest.sale_month = %(sale_month)s::date
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

delete from pipeline.sales_by_store
using pipeline.file_loads as earlier, pipeline.current_loads as latest
where
    sales_by_store.load_id = earlier.load_id
    and earlier.load_id < latest.load_id
    and earlier.table_name = 'sales'
    and earlier.sale_month = %(sale_month)s::date
    and latest.table_name = 'sales'
    and latest.sale_month = %(sale_month)s::date;

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
