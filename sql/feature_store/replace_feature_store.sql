-- Replaces the feature store: one row for every client that has a profile, an activity and a label.
--
-- Reads   customer_profiles, customer_activity, labels, pipeline.loads
-- Writes  feature_store: the rows of the clients that have changed; pipeline.feature_store_builds: which loads it was
--         built from; staging.clients, which is empty before and after
-- Twice?  Yes. The difference is written in one transaction; a second run waits for the lock, finds none, and adds a
--         row to feature_store_builds.

-- All statements see the customer tables and the ledger of one moment. It comes after the lock: a file that is being
-- published now is seen in both or in none.
set transaction_isolation = 'repeatable read';

lock table public.customer_profiles, public.customer_activity, public.labels in access share mode;

-- The planner knows no statistics of staging.clients, and would choose nested loops.
set local enable_nestloop = off;

-- Readers do not wait; another rebuild does.
lock table public.feature_store in share row exclusive mode;

truncate staging.clients;

-- The current row of a client has no valid_to. Of several the latest counts; the last two columns decide between rows
-- with equal dates, so that every run chooses the same row.
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

-- Clients without a current row have their last one.
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

-- check_customers.sql rejects such files, but rows can also be written by hand.
select
    pipeline.reject(concat(
        'feature_store: ', count(*), ' clients have two different profiles or labels, the first of them: ', min(idx),
        '. The table has one row per client, so it stays as it was. Correct customer_profiles or labels, then clear',
        ' this run.'
    ))
from (
    select idx
    from staging.clients
    where
        has_activity
        and label is not null
    group by idx
    having count(*) > 1
) as ambiguous
having count(*) > 0;

-- feature_store, by difference: rows that did not change are not touched.
delete from public.feature_store
where not exists (
    select
    from staging.clients
    where
        clients.idx = feature_store.idx
        and clients.has_activity
        and clients.label is not null
);

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
    and (
        kept.idx is null
        or (clients.attr_a, clients.attr_b, clients.scd_a, clients.scd_b, clients.label)
        is distinct from (kept.attr_a, kept.attr_b, kept.scd_a, kept.scd_b, kept.label)
    )
on conflict (idx) do update
    set
        attr_a = excluded.attr_a,
        attr_b = excluded.attr_b,
        scd_a = excluded.scd_a,
        scd_b = excluded.scd_b,
        label = excluded.label;

insert into pipeline.feature_store_builds (row_count, profiles_load, activity_load, labels_load)
select
    (select count(*) from public.feature_store) as row_count,
    max(load_id) filter (where table_name = 'customer_profiles') as profiles_load,
    max(load_id) filter (where table_name = 'customer_activity') as activity_load,
    max(load_id) filter (where table_name = 'labels') as labels_load
from pipeline.loads
where outcome = 'published';

-- A table that was built from no files stays closed to its readers.
select pipeline.open_to_readers('feature_store')
from pipeline.loads
where
    outcome = 'published'
    and table_name in ('customer_profiles', 'customer_activity', 'labels')
having count(*) = 3;

select
    pipeline.report(concat(
        'feature_store: ', count(*) filter (where has_activity and label is not null), ' of ', count(*),
        ' clients with a profile; left out: ', count(*) filter (where not has_activity), ' without an activity, ',
        count(*) filter (where label is null), ' without a label (a client may lack both)'
    ))
from staging.clients;

truncate staging.clients;
