-- Replaces the three customer tables with the files that were staged, all at once.
--
-- Reads   staging.customer_profiles, staging.customer_activity, staging.labels
-- Writes  customer_profiles, customer_activity, labels, all of them
-- Twice?  Yes. Old rows go and new rows come in one transaction; a second run waits for the lock.

-- Readers pass; whoever else publishes customer data waits.
lock table public.customer_profiles, public.customer_activity, public.labels in share row exclusive mode;

-- From here on staging cannot be emptied under this transaction: the counts hold a lock on its tables.
with staged (file_name, row_count, expected) as (
    select
        'customer_profiles.csv' as file_name,
        count(*) as row_count,
        %(staged_profiles)s::bigint as expected
    from staging.customer_profiles
    union all
    select
        'customer_activity.csv' as file_name,
        count(*) as row_count,
        %(staged_activity)s::bigint as expected
    from staging.customer_activity
    union all
    select
        'labels.csv' as file_name,
        count(*) as row_count,
        %(staged_labels)s::bigint as expected
    from staging.labels
)

select
    pipeline.refuse(concat(
        file_name, ': the file had ', expected, ' rows, but staging holds ', row_count,
        '. Staged rows are lost when the server crashes, or another run is staging now; all customer tables stay as',
        ' they were. Clear this run from its staging tasks on.'
    ))
from staged
where row_count <> expected;

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
