-- Refuses a staged month of sales that must not be published.
--
-- Reads   staging.sales, staging.stores (the partitions of :sale_month)
-- Writes  nothing
-- Twice?  Yes. Staging keeps the rows, so that they can be looked at.

with strays as (
    select
        count(*) as row_count,
        min(date) as first_date,
        max(date) as last_date
    from staging.sales
    where
        sale_month = %(sale_month)s::date
        and not (
            date >= %(sale_month)s::date
            and date < (%(sale_month)s::date + interval '1 month')::date
        )
)

select
    pipeline.refuse(concat(
        'sales of ', %(sale_month)s::date, ': ', row_count, ' rows are dated outside the month (', first_date, ' to ',
        last_date, '). Publishing them would touch another month, so this one stays as it was. Look at them in',
        ' staging.sales; when the file is mended, clear this run.'
    ))
from strays
where row_count > 0;

with strangers as (
    select
        count(*) as row_count,
        count(distinct sold.store_idx) as store_count,
        min(sold.store_idx) as first_store
    from staging.sales as sold
    left join staging.stores as known
        on
            sold.store_idx = known.idx
            and known.sale_month = %(sale_month)s::date
    where
        sold.sale_month = %(sale_month)s::date
        and known.idx is null
)

select
    pipeline.refuse(concat(
        'sales of ',
        %(sale_month)s::date,
        ': ',
        row_count,
        ' rows are of ',
        store_count,
        ' stores that stores.csv lacks (',
        first_store, ' is one). monthly_sales needs their location, so the month stays as it was. When either file is',
        ' mended, clear this run.'
    ))
from strangers
where row_count > 0;
