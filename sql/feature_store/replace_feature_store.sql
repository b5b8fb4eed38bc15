-- Replaces the feature store: one row for every client that has a profile, an activity and a label.
--
-- Reads   customer_profiles, customer_activity, labels, pipeline.current_loads
-- Writes  feature_store: the rows of the clients that have changed; pipeline.feature_store_builds: which loads it was
--         built from; staging.clients, which is empty before and after
-- Twice?  Yes. What differs goes and what is missing comes, in one transaction; a second run waits for the lock, and
--         finds nothing to write.

-- All statements see the customer data of one moment, so that the report below speaks of the rows above it.
set transaction_isolation = 'repeatable read';

-- Staging was just filled and feature_store may be new: what the planner takes for a few rows, it would loop over.
set local enable_nestloop = off;

-- Readers pass; another rebuild waits, and then sees what this one left.
lock table public.feature_store in share row exclusive mode;

truncate staging.clients;

-- The current row of a client has no valid_to. Of several the latest counts; the last two columns choose among rows
-- alike in their dates, so that every run chooses the same one.
insert into staging.clients (idx, attr_a, attr_b, scd_a, scd_b, label, has_activity)
with profiles as (
    select distinct
        idx,
        attr_a,
        attr_b
    from public.customer_profiles
),

current_activity as (
    select distinct on (idx)
        idx,
        scd_a,
        scd_b
    from public.customer_activity
    where valid_to is null
    order by
        idx asc,
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
    current_activity.scd_a,
    current_activity.scd_b,
    labelled.label,
    current_activity.idx is not null as has_activity
from profiles
left join current_activity
    on profiles.idx = current_activity.idx
left join labelled
    on profiles.idx = labelled.idx;

-- The few who have no current row are shown as they were last.
with last_activity as (
    select distinct on (clients.idx)
        clients.idx,
        customer_activity.scd_a,
        customer_activity.scd_b
    from staging.clients
    inner join public.customer_activity
        on clients.idx = customer_activity.idx
    where not clients.has_activity
    order by
        clients.idx asc,
        customer_activity.valid_to desc,
        customer_activity.valid_from desc,
        customer_activity.scd_a desc nulls last,
        customer_activity.scd_b desc nulls last
)

update staging.clients
set
    scd_a = last_activity.scd_a,
    scd_b = last_activity.scd_b,
    has_activity = true
from last_activity
where clients.idx = last_activity.idx;

-- What differs goes.
with stale as (
    select kept.idx
    from public.feature_store as kept
    left join staging.clients
        on kept.idx = clients.idx
    where
        clients.has_activity is not true
        or (kept.attr_a, kept.attr_b, kept.scd_a, kept.scd_b, kept.label)
        is distinct from (clients.attr_a, clients.attr_b, clients.scd_a, clients.scd_b, clients.label)
)

delete from public.feature_store
using stale
where feature_store.idx = stale.idx;

-- What is missing comes. The key of feature_store keeps a client from having two rows.
insert into public.feature_store (idx, attr_a, attr_b, scd_a, scd_b, label)
select
    clients.idx,
    clients.attr_a,
    clients.attr_b,
    clients.scd_a,
    clients.scd_b,
    clients.label
from staging.clients
left join public.feature_store as kept
    on clients.idx = kept.idx
where
    clients.has_activity
    and clients.label is not null
    and kept.idx is null;

insert into pipeline.feature_store_builds (row_count, profiles_load, activity_load, labels_load)
select
    (select count(*) from public.feature_store) as row_count,
    max(load_id) filter (where table_name = 'customer_profiles') as profiles_load,
    max(load_id) filter (where table_name = 'customer_activity') as activity_load,
    max(load_id) filter (where table_name = 'labels') as labels_load
from pipeline.current_loads;

select
    pipeline.report(concat(
        'feature_store: ', count(*) filter (where has_activity and label is not null), ' of ', count(*),
        ' clients with a profile; left out: ', count(*) filter (where not has_activity), ' without an activity, ',
        count(*) filter (where label is null), ' without a label (a client may lack both)'
    ))
from staging.clients;

truncate staging.clients;
