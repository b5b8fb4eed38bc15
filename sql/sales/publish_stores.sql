-- Replaces stores with the file that this month's run staged.
--
-- Reads   staging.stores (the partition of :sale_month)
-- Writes  stores, all of it
-- Twice?  Yes. Old rows go and new rows come in one transaction; a second run waits for the lock.

-- Readers pass. Months that run side by side replace stores one after the other.
lock table public.stores in share row exclusive mode;

-- From here on staging cannot be emptied under this transaction: the count holds a lock on the partition.
select
    pipeline.refuse(concat(
        'stores.csv: the file had ', %(staged_rows)s::bigint, ' rows, but staging.stores holds ', staged.row_count,
        ' for ', %(sale_month)s::date, '. Staged rows are lost when the server crashes, or another run of this month',
        ' is staging now; stores stays as it was. Clear stage_stores of this run, and what follows it.'
    ))
from (
    select count(*) as row_count
    from staging.stores
    where sale_month = %(sale_month)s::date
) as staged
where staged.row_count <> %(staged_rows)s::bigint;

delete from public.stores;

insert into public.stores (idx, location)
select distinct
    idx,
    location
from staging.stores
where sale_month = %(sale_month)s::date;
