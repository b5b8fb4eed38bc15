-- Replaces one month of sales with the file that was staged for it.
--
-- Reads   staging.sales (the partition of :sale_month)
-- Writes  sales: the rows dated in :sale_month, all of them
-- Twice?  Yes. The month is deleted and inserted in one transaction; a second run of it waits for the first.

select pipeline.lock_month(%(sale_month)s::date);

-- From here on staging cannot be emptied under this transaction: the count holds a lock on the partition.
select
    pipeline.refuse(concat(
        'sales of ',
        %(sale_month)s::date,
        ': the file had ',
        %(staged_rows)s::bigint,
        ' rows, but staging.sales holds ',
        staged.row_count,
        '. Staged rows are lost when the server crashes, or another run of this month is staging now;',
        ' the month stays as it was. Clear stage_sales of this run, and what follows it.'
    ))
from (
    select count(*) as row_count
    from staging.sales
    where sale_month = %(sale_month)s::date
) as staged
where staged.row_count <> %(staged_rows)s::bigint;

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
