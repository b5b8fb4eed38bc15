-- Replaces one month of sales with the file that was staged for it.
--
-- Reads   staging.sales (the partition of :sale_month), pipeline.file_loads
-- Writes  sales: the rows dated in :sale_month, all of them; pipeline.file_loads: that :load_id is published
-- Twice?  Yes. The month is deleted and inserted in one transaction; a second run of it waits for the first.

select pipeline.lock_month(%(sale_month)s::date);

-- From here on staging cannot be emptied under this transaction: the count holds a lock on the partition.
select pipeline.require_checked(%(load_id)s::bigint, count(*))
from staging.sales
where sale_month = %(sale_month)s::date;

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

select pipeline.mark_published(%(load_id)s::bigint);
