-- Checks a staged month of sales against its stores.csv: only a checked load can be published.
--
-- Reads       the staged rows of :sales_load (once) and of :stores_load; stores, which has those of older lists
-- Writes      pipeline.sales_by_store: what the load holds; pipeline.loads: the verdicts
-- Idempotent  Yes. The same rows get the same sums and the same verdict. One transaction; pipeline.require_checked
--             raises the verdict in a second one, so that the ledger keeps it.

select pipeline.open_staged(%(sales_load)s::bigint, 'staged_sales');

select pipeline.open_staged(%(stores_load)s::bigint, 'staged_stores');

-- The only pass over the month. In a temporary table, because PostgreSQL reads in parallel for CREATE TABLE AS and
-- not for INSERT.
create temporary table sold on commit drop as
select
    store_idx,
    count(*) as row_count,
    min(idx) as min_idx,
    max(date) as max_date,
    sum(value) as total
from staged_sales
group by store_idx;

insert into pipeline.sales_by_store (load_id, store_idx, row_count, min_idx, max_date, total)
select
    %(sales_load)s::bigint as load_id,
    store_idx,
    row_count,
    min_idx,
    max_date,
    total
from sold
on conflict (load_id, store_idx) do nothing;

with unknown_stores as (
    select
        sold.store_idx,
        sold.row_count,
        sold.min_idx
    from sold
    where
        not exists (
            select
            from staged_stores
            where staged_stores.idx = sold.store_idx
        )
        and not exists (
            select
            from public.stores
            where stores.idx = sold.store_idx
        )
),

ambiguous_stores as (
    select idx
    from staged_stores
    group by idx
    having count(distinct location) > 1
),

listed_stores as (
    select count(*) as row_count
    from staged_stores
),

-- One row for each kind of error, with the first few rows that have it.
errors (table_name, error) as (
    select
        'sales' as table_name,
        concat(
            sum(row_count), ' rows are of ', count(*), ' stores that stores.csv lacks, the first of them: ',
            (
                select string_agg(concat('idx ', first_few.min_idx, ' of store ', first_few.store_idx), ', ')
                from (
                    select
                        store_idx,
                        min_idx
                    from unknown_stores
                    order by min_idx, store_idx
                    limit 5
                ) as first_few
            )
        ) as error
    from unknown_stores
    having count(*) > 0

    union all

    select
        'stores' as table_name,
        concat(
            count(*), ' stores have more than one location, the first of them: store ', min(idx)
        ) as error
    from ambiguous_stores
    having count(*) > 0

    union all

    select
        'stores' as table_name,
        'the list of stores has no rows' as error
    from listed_stores
    where row_count = 0
),

summary (table_name, max_date, total) as (
    select
        'sales' as table_name,
        max(max_date) as max_date,
        coalesce(sum(total), 0) as total
    from sold
)

select pipeline.check_load(loads.load_id, string_agg(errors.error, '; '), summary.max_date, summary.total)
from pipeline.loads
inner join pipeline.files
    on loads.file_id = files.file_id
left join errors
    on files.table_name = errors.table_name
left join summary
    on files.table_name = summary.table_name
where loads.load_id in (%(sales_load)s::bigint, %(stores_load)s::bigint)
group by loads.load_id, files.table_name, summary.max_date, summary.total
-- As publishing locks them.
order by files.table_name;

drop view staged_sales, staged_stores;
