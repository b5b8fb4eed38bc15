-- Publishes a month: deletes and inserts its rows in sales and in monthly_sales, in one transaction.
--
-- Reads       the staged rows of :load and :stores_load
-- Writes      sales and monthly_sales: the rows of :file_month, all of them; stores; pipeline.loads: that the loads
--             are published
-- Idempotent  Yes. The same load gives the same rows. A load that is published already, or that a later one has
--             superseded, stops at the first statement and changes nothing.

start transaction;

-- No migration changes a table, and no foreign key comes, until the end. Readers and writers pass.
lock table only public.sales, public.monthly_sales, public.stores in row exclusive mode;

-- Locks the file of the month, and then that of the stores. A superseded list of stores does not stop the month, which
-- was checked with it.
select pipeline.publish_load(%(load)s::bigint);

select pipeline.publish_load(%(stores_load)s::bigint);

select pipeline.open_staged(%(load)s::bigint, 'staged_sales');

select pipeline.open_staged(%(stores_load)s::bigint, 'staged_stores');

-- A foreign key would lose its rows.
select pipeline.reject_foreign_keys('public.monthly_sales')
where exists (
    select sale_month
    from public.monthly_sales
    where sale_month = %(file_month)s::date
);

-- An older list adds the stores that are missing; only the newest one changes a location.
insert into public.stores (idx, location)
select distinct
    staged_stores.idx,
    staged_stores.location
from staged_stores
left join public.stores
    on staged_stores.idx = stores.idx
where
    stores.idx is null
    or (
        stores.location <> staged_stores.location
        and exists (
            select
            from pipeline.loads
            where
                loads.load_id = %(stores_load)s::bigint
                and loads.status = 'published'
        )
    )
on conflict (idx) do update
    set location = excluded.location;

delete from public.sales
where
    date >= %(file_month)s::date
    and date < %(file_month)s::date + interval '1 month';

insert into public.sales
select *
from staged_sales;

-- One pass over what stands in sales now. PostgreSQL reads in parallel for CREATE TABLE AS, and not for INSERT.
create temporary table sold on commit drop as
select
    store_idx,
    count(*) as row_count,
    sum(value) as total
from public.sales
where
    date >= %(file_month)s::date
    and date < %(file_month)s::date + interval '1 month'
group by store_idx;

delete from public.monthly_sales
where sale_month = %(file_month)s::date;

insert into public.monthly_sales (store_idx, location, sale_month, value)
select
    sold.store_idx,
    stores.location,
    %(file_month)s::date as sale_month,
    sold.total
from sold
inner join public.stores
    on sold.store_idx = stores.idx;

-- Lost rows, another sum and a policy that hides rows end here: what stands in the tables is what was checked.
select pipeline.verify_load(%(load)s::bigint, 'sales', coalesce(sum(row_count), 0), sum(total))
from sold;

select pipeline.verify_load(%(load)s::bigint, 'monthly_sales', null, sum(value))
from public.monthly_sales
where sale_month = %(file_month)s::date;

select
    pipeline.notice(concat(
        'monthly_sales of ', %(file_month)s::date, ': ', count(*), ' stores, total ', coalesce(sum(total), 0),
        ', of ', coalesce(sum(row_count), 0), ' sales'
    ))
from sold;

drop view staged_sales, staged_stores;

-- The list of stores stays staged until a newer one is published, to be compared with the table.
select pipeline.drop_staged(%(load)s::bigint);

commit;
