-- Replaces the three customer tables with the files that were staged, all at once.
--
-- Reads   staging.customer_profiles, staging.customer_activity, staging.labels, pipeline.file_loads
-- Writes  customer_profiles, customer_activity, labels, all of them; pipeline.file_loads: that the loads are published
-- Twice?  Yes. Old rows go and new rows come in one transaction; a second run waits for the lock.

-- Readers pass; whoever else publishes customer data waits.
lock table public.customer_profiles, public.customer_activity, public.labels in share row exclusive mode;

-- From here on staging cannot be emptied under this transaction: the counts hold a lock on its tables.
select pipeline.require_checked(%(profiles_load)s::bigint, count(*))
from staging.customer_profiles;

select pipeline.require_checked(%(activity_load)s::bigint, count(*))
from staging.customer_activity;

select pipeline.require_checked(%(labels_load)s::bigint, count(*))
from staging.labels;

delete from public.customer_profiles;

delete from public.customer_activity;

delete from public.labels;

insert into public.customer_profiles (idx, attr_a, attr_b, attr_c)
select
    idx,
    attr_a,
    attr_b,
    attr_c
from staging.customer_profiles;

insert into public.customer_activity (idx, valid_from, valid_to, scd_a, scd_b)
select
    idx,
    valid_from,
    valid_to,
    scd_a,
    scd_b
from staging.customer_activity;

insert into public.labels (idx, label)
select
    idx,
    label
from staging.labels;

select pipeline.mark_published(load_id)
from (
    values (%(profiles_load)s::bigint), (%(activity_load)s::bigint), (%(labels_load)s::bigint)
) as loads (load_id);

select pipeline.report_change(load_id)
from (
    values (%(profiles_load)s::bigint), (%(activity_load)s::bigint), (%(labels_load)s::bigint)
) as loads (load_id);
