-- Replaces the feature store: one row for every client that has a profile, an activity and a label.
--
-- Reads   customer_profiles, customer_activity, labels, pipeline.current_loads
-- Writes  feature_store, all of it; pipeline.feature_store_builds: which loads it was built from
-- Twice?  Yes. Old rows go and new rows come in one transaction; a second run waits for the lock.

-- All statements see the customer data of one moment, so that the report below speaks of the rows above it.
set transaction_isolation = 'repeatable read';

-- Readers pass; another rebuild waits, and then sees what this one left.
lock table public.feature_store in share row exclusive mode;

delete from public.feature_store;

insert into public.feature_store (idx, attr_a, attr_b, scd_a, scd_b, label)
with profiles as (
    select distinct
        idx,
        attr_a,
        attr_b
    from public.customer_profiles
),

-- The current row has no valid_to. Of rows alike in both dates the last two columns choose, so that every run
-- chooses the same one.
latest_activity as (
    select distinct on (idx)
        idx,
        scd_a,
        scd_b
    from public.customer_activity
    order by
        idx asc,
        valid_to desc nulls first,
        valid_from desc,
        scd_a desc nulls last,
        scd_b desc nulls last
),

labelled as (
    select distinct
        idx,
        label
    from public.labels
)

select
    profiles.idx,
    profiles.attr_a,
    profiles.attr_b,
    latest_activity.scd_a,
    latest_activity.scd_b,
    labelled.label
from profiles
inner join latest_activity
    on profiles.idx = latest_activity.idx
inner join labelled
    on profiles.idx = labelled.idx;

insert into pipeline.feature_store_builds (row_count, profiles_load, activity_load, labels_load)
select
    (select count(*) from public.feature_store) as row_count,
    max(load_id) filter (where table_name = 'customer_profiles') as profiles_load,
    max(load_id) filter (where table_name = 'customer_activity') as activity_load,
    max(load_id) filter (where table_name = 'labels') as labels_load
from pipeline.current_loads;

with present (idx, kind) as (
    select
        idx,
        'profile' as kind
    from public.customer_profiles
    union
    select
        idx,
        'activity' as kind
    from public.customer_activity
    union
    select
        idx,
        'label' as kind
    from public.labels
),

clients as (
    select
        idx,
        bool_or(kind = 'profile') as has_profile,
        bool_or(kind = 'activity') as has_activity,
        bool_or(kind = 'label') as has_label
    from present
    group by idx
)

select
    pipeline.report(concat(
        'feature_store: ', count(*) filter (where has_profile and has_activity and has_label), ' of ', count(*),
        ' clients; left out: ', count(*) filter (where not has_profile), ' without a profile, ',
        count(*) filter (where not has_activity), ' without an activity, ',
        count(*) filter (where not has_label), ' without a label (a client may lack more than one)'
    ))
from clients;
