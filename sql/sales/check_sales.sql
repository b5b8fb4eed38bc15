-- Judges a staged month of sales: only what is found good here can be published.
--
-- Reads   staging.sales, staging.stores (the partitions of :sale_month)
-- Writes  pipeline.file_loads: the verdicts on :sales_load and :stores_load
-- Twice?  Yes. The same rows get the same verdict. Each statement commits by itself, so that the ledger keeps a
--         verdict that a later one raises.

with sold as (
    select
        idx,
        value,
        date,
        store_idx,
        date >= %(sale_month)s::date and date < (%(sale_month)s::date + interval '1 month')::date as in_month,
        -- numeric knows NaN and the infinities, of which any sum would be one.
        value > '-infinity' and value < 'infinity' as is_amount
    from staging.sales
    where sale_month = %(sale_month)s::date
),

known as (
    select
        idx,
        count(distinct location) as locations
    from staging.stores
    where sale_month = %(sale_month)s::date
    group by idx
),

summary as (
    select
        max(date) as last_date,
        count(*) filter (where not in_month) as outside_month,
        count(*) filter (where not is_amount) as no_amounts
    from sold
),

unknown_stores as (
    select
        sold.store_idx,
        count(*) as row_count
    from sold
    left join known
        on sold.store_idx = known.idx
    where known.idx is null
    group by sold.store_idx
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
            summary.outside_month, ' rows are dated outside the month, the first of them: ',
            (
                select string_agg(concat('idx ', first_few.idx, ' on ', first_few.date), ', ')
                from (
                    select
                        idx,
                        date
                    from sold
                    where not in_month
                    order by idx, date
                    limit 5
                ) as first_few
            )
        ) as problem
    from summary
    where summary.outside_month > 0

    union all

    select
        'sales' as table_name,
        concat(
            summary.no_amounts, ' rows have a value that is no amount, the first of them: ',
            (
                select string_agg(concat('idx ', first_few.idx, ' with ', first_few.value), ', ')
                from (
                    select
                        idx,
                        value
                    from sold
                    where not is_amount
                    order by idx, value
                    limit 5
                ) as first_few
            )
        ) as problem
    from summary
    where summary.no_amounts > 0

    union all

    select
        'sales' as table_name,
        concat(
            sum(unknown_stores.row_count), ' rows are of ', count(*),
            ' stores that stores.csv lacks, the first of them: ',
            (
                select string_agg(concat('idx ', first_few.idx, ' of store ', first_few.store_idx), ', ')
                from (
                    select
                        idx,
                        store_idx
                    from sold
                    where store_idx in (select unknown_stores.store_idx from unknown_stores)
                    order by idx, store_idx
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

select pipeline.require_checked(%(sales_load)s::bigint, count(*))
from staging.sales
where sale_month = %(sale_month)s::date;

select pipeline.require_checked(%(stores_load)s::bigint, count(*))
from staging.stores
where sale_month = %(sale_month)s::date;
