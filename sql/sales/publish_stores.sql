-- Replaces stores with the file that this month's run staged, unless a run has published a newer one.
--
-- Reads   staging.stores (the partition of :sale_month), pipeline.file_loads
-- Writes  stores, all of it; pipeline.file_loads: that :stores_load is published
-- Twice?  Yes. Old rows go and new rows come in one transaction; a second run waits for the lock.

-- Before stores, so that a run which waits for its month makes no other month wait.
select pipeline.lock_month(%(sale_month)s::date);

select pipeline.lock_staged_month(%(sale_month)s::date);

-- Readers pass. Months that run side by side replace stores one after the other.
lock table public.stores in share row exclusive mode;

-- From here on staging cannot be emptied under this transaction: the count holds a lock on the partition.
select pipeline.require_checked(%(stores_load)s::bigint, count(*))
from staging.stores
where sale_month = %(sale_month)s::date;

delete from public.stores
where pipeline.is_newest(%(stores_load)s::bigint);

insert into public.stores (idx, location)
select distinct
    idx,
    location
from staging.stores
where
    sale_month = %(sale_month)s::date
    and pipeline.is_newest(%(stores_load)s::bigint);

select pipeline.mark_published(%(stores_load)s::bigint);

select pipeline.report_change(%(stores_load)s::bigint);
