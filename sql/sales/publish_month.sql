-- Publishes a month: stores, the month of sales, and the month of monthly_sales, all in one transaction.
--
-- Reads   the checked rows of :sales_load and :stores_load, and what the check found in them
-- Writes  sales and monthly_sales: the rows of :sale_month, all of them; stores; pipeline.loads: that the loads are
--         published
-- Twice?  Yes. The tables are brought to what the published loads hold, whichever run published them. A second run of
--         the month waits for the first.

-- Sales first: a run that waits for its month makes no other month wait for the stores.
select pipeline.publish_load(%(sales_load)s::bigint);

select pipeline.publish_load(%(stores_load)s::bigint);

-- stores, by difference.
delete from public.stores
where not exists (
    select
    from pipeline.published_stores
    where published_stores.idx = stores.idx
);

insert into public.stores (idx, location)
select
    published_stores.idx,
    published_stores.location
from pipeline.published_stores
left join public.stores
    on published_stores.idx = stores.idx
where published_stores.location is distinct from stores.location
on conflict (idx) do update
    set location = excluded.location;

-- The month was checked with its own stores.csv; another month may have published a newer one since.
select
    pipeline.reject(concat(
        'sales of ', %(sale_month)s::date, ': ', sum(sold.row_count), ' rows are of ', count(*),
        ' stores that the newest stores.csv lacks, the first of them: idx ', min(sold.first_sale), ' of store ',
        (array_agg(sold.store_idx order by sold.first_sale))[1],
        '. monthly_sales needs their location, so the month stays as it was. When stores.csv has them again, clear',
        ' this run.'
    ))
from pipeline.published_sales_by_store as sold
left join public.stores
    on sold.store_idx = stores.idx
where
    sold.sale_month = %(sale_month)s::date
    and stores.idx is null
having count(*) > 0;

-- The month of monthly_sales, by difference.
delete from public.monthly_sales
where
    sale_month = %(sale_month)s::date
    and not exists (
        select
        from pipeline.published_sales_by_store as sold
        where
            sold.sale_month = monthly_sales.sale_month
            and sold.store_idx = monthly_sales.store_idx
    );

insert into public.monthly_sales (store_idx, location, sale_month, value)
select
    sold.store_idx,
    stores.location,
    sold.sale_month,
    sold.total
from pipeline.published_sales_by_store as sold
inner join public.stores
    on sold.store_idx = stores.idx
left join public.monthly_sales
    on
        sold.sale_month = monthly_sales.sale_month
        and sold.store_idx = monthly_sales.store_idx
where
    sold.sale_month = %(sale_month)s::date
    and (stores.location, sold.total) is distinct from (monthly_sales.location, monthly_sales.value)
on conflict (sale_month, store_idx) do update
    set
        location = excluded.location,
        value = excluded.value;

-- What the check found in superseded loads is not needed any more.
delete from pipeline.sales_by_store
using pipeline.loads
where
    sales_by_store.load_id = loads.load_id
    and loads.sale_month = %(sale_month)s::date
    and loads.outcome = 'superseded';

delete from pipeline.stores_by_load
using pipeline.loads
where
    stores_by_load.load_id = loads.load_id
    and loads.outcome = 'superseded';

select
    pipeline.report(concat(
        'monthly_sales of ', %(sale_month)s::date, ': ', count(monthly_sales.store_idx), ' stores, total ',
        loads.total, ', of ', loads.row_count, ' sales'
    ))
from pipeline.loads
left join public.monthly_sales
    on loads.sale_month = monthly_sales.sale_month
where
    loads.table_name = 'sales'
    and loads.sale_month = %(sale_month)s::date
    and loads.outcome = 'published'
group by loads.total, loads.row_count;

-- stores_by_load holds the rows of the staged stores.
select pipeline.discard_staged(%(stores_load)s::bigint);

-- The month of sales, by partition. Late, because readers of sales may wait from here to the end of the transaction,
-- for milliseconds.
select pipeline.replace_partitions(%(sales_load)s::bigint);

select pipeline.open_to_readers('stores');

select pipeline.open_to_readers('monthly_sales');
