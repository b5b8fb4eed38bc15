-- Judges a staged month of sales: only what is found good here can be published.
--
-- Reads   staging.sales (the child of :sale_month, once), staging.stores (the partition of :sale_month)
-- Writes  pipeline.sales_by_store: what :sales_load holds; pipeline.file_loads: the verdicts on :sales_load and
--         :stores_load; the child of :sale_month leaves staging.sales when it was found good
-- Twice?  Yes. The same rows get the same sums and the same verdict. Each statement commits by itself, so that the
--         ledger keeps a verdict that a later one raises.

-- The only pass over the month. In a table of the session, because PostgreSQL reads in parallel for CREATE TABLE AS
-- and not for INSERT.
create temporary table sold as
select
    store_idx,
    count(*) as row_count,
    min(idx) as first_sale,
    max(date) as last_date,
    sum(value) as total
from staging.sales
where
    date >= %(sale_month)s::date
    and date < (%(sale_month)s::date + interval '1 month')::date
group by store_idx;

insert into pipeline.sales_by_store (load_id, store_idx, row_count, first_sale, last_date, total)
select
    %(sales_load)s::bigint as load_id,
    store_idx,
    row_count,
    first_sale,
    last_date,
    total
from sold
on conflict (load_id, store_idx) do nothing;

drop table sold;

with sold as (
    select
        store_idx,
        row_count,
        first_sale,
        last_date,
        -- numeric knows NaN and the infinities, of which any sum is one.
        total > '-infinity' and total < 'infinity' as is_amount
    from pipeline.sales_by_store
    where load_id = %(sales_load)s::bigint
),

known as (
    select
        idx,
        count(distinct location) as locations
    from staging.stores
    where sale_month = %(sale_month)s::date
    group by idx
),

unknown_stores as (
    select
        sold.store_idx,
        sold.row_count,
        sold.first_sale
    from sold
    left join known
        on sold.store_idx = known.idx
    where known.idx is null
),

no_amounts as (
    select
        idx,
        value
    from staging.sales
    where
        -- Without such a sum the month is not read again.
        (select bool_or(not sold.is_amount) from sold)
        and date >= %(sale_month)s::date
        and date < (%(sale_month)s::date + interval '1 month')::date
        and not (value > '-infinity' and value < 'infinity')
),

ambiguous as (
    select idx
    from known
    where locations > 1
),

-- One row for each kind of problem, with the first few rows that have it.
problems (table_name, problem) as (
    select
        'sales' as table_name,
        concat(
            count(*), ' rows have a value that is no amount, the first of them: ',
            (
                select string_agg(concat('idx ', first_few.idx, ' with ', first_few.value), ', ')
                from (
                    select
                        idx,
                        value
                    from no_amounts
                    order by idx, value
                    limit 5
                ) as first_few
            )
        ) as problem
    from no_amounts
    having count(*) > 0

    union all

    select
        'sales' as table_name,
        concat(
            sum(row_count), ' rows are of ', count(*), ' stores that stores.csv lacks, the first of them: ',
            (
                select string_agg(concat('idx ', first_few.first_sale, ' of store ', first_few.store_idx), ', ')
                from (
                    select
                        store_idx,
                        first_sale
                    from unknown_stores
                    order by first_sale, store_idx
                    limit 5
                ) as first_few
            )
        ) as problem
    from unknown_stores
    having count(*) > 0

    union all

    select
        'stores' as table_name,
        concat(
            count(*), ' stores have more than one location, the first of them: store ', min(idx)
        ) as problem
    from ambiguous
    having count(*) > 0
),

summary as (
    select max(last_date) as last_date
    from sold
),

verdicts as (
    select
        loads.load_id,
        case when loads.table_name = 'sales' then summary.last_date end as last_date,
        string_agg(problems.problem, '; ') as problem
    from pipeline.file_loads as loads
    cross join summary
    left join problems
        on loads.table_name = problems.table_name
    where loads.load_id in (%(sales_load)s::bigint, %(stores_load)s::bigint)
    group by loads.load_id, loads.table_name, summary.last_date
)

update pipeline.file_loads
set
    outcome = case when verdicts.problem is null then 'checked' else 'refused' end,
    problem = verdicts.problem || ' (the rows stay in schema staging until the month is staged again)',
    last_date = case when verdicts.problem is null then verdicts.last_date end,
    finished_at = clock_timestamp()
from verdicts
where
    file_loads.load_id = verdicts.load_id
    and file_loads.outcome in ('staged', 'checked');

-- Raises all verdicts at once, and then whatever else keeps the loads from being published.
select
    pipeline.refuse(concat(
        string_agg(concat(address, ': ', problem), '; ' order by address),
        '. Nothing was published, and the month stays as it was. When the file is mended, clear this run.'
    ))
from pipeline.file_loads
where
    load_id in (%(sales_load)s::bigint, %(stores_load)s::bigint)
    and outcome = 'refused'
having count(*) > 0;

select pipeline.require_checked(%(sales_load)s::bigint, coalesce(sum(row_count), 0)::bigint)
from pipeline.sales_by_store
where load_id = %(sales_load)s::bigint;

select pipeline.require_checked(%(stores_load)s::bigint, count(*))
from staging.stores
where sale_month = %(sale_month)s::date;

-- Out of the way of those who read staging: from here on only publishing touches the month.
select pipeline.seal_staged_month(%(sales_load)s::bigint);
