-- Finds the clients whose source rows have changed since their rows in feature_history were built. In a run by hand
-- that is all clients, because their rows in feature_history may have been changed. A rebuild that would lose too many
-- clients ends here: it is recorded, and the files that follow find no client.
--
-- Reads       customer_profiles, customer_activity, labels, pipeline.client_hashes, pipeline.feature_sources
-- Writes      the temporary tables build and clients; pipeline.rejected_builds
-- Idempotent  Yes. A second run waits for the locks, and finds no changed client.
--
-- This file, resolve_days.sql and write_difference.sql are one transaction; require_build.sql follows its commit. By
-- hand, in sql/feature_store:
--
--     psql -v ON_ERROR_STOP=1 -1 \
--         -c "set local pipeline.keep_for = 'infinity'" -c "set local pipeline.max_loss = '20'" \
--         -c "set local pipeline.run_type = 'manual'" \
--         -f find_changed_clients.sql -f resolve_days.sql -f write_difference.sql &&
--         psql -v ON_ERROR_STOP=1 -f require_build.sql

-- All statements see the customer tables and the ledger of one moment: nobody publishes a file until the end.
lock table public.customer_profiles, public.customer_activity, public.labels in share mode;

-- Readers do not wait; another rebuild does.
lock table public.feature_history, public.feature_store in share row exclusive mode;

-- The planner may know no statistics of tables that were just published. To sort the clients costs less than to hash
-- them, because all joins then merge; several processes that aggregate a few rows of each client cost more than one.
set local enable_nestloop = off;

set local enable_hashagg = off;

set local max_parallel_workers_per_gather = 0;

-- A million clients are sorted and hashed in memory, so rows stay in the order in which indexes are filled fastest.
set local work_mem = '64MB';

-- A history that was emptied by hand is built again.
delete from pipeline.client_hashes
where not exists (
    select idx
    from public.feature_history
    where known_to is null
);

-- Each client that has a profile or is in feature_history. Its hash is null without a profile, an activity or a label.
create temporary table clients on commit drop as
with hashed_profiles as (
    select
        idx as profile_idx,
        customer_profiles as profile,
        hash_record_extended(customer_profiles, 0) as profile_hash
    from public.customer_profiles
),

profiles as (
    select distinct on (profile_idx, profile_hash)
        profile_idx,
        profile,
        profile_hash
    from hashed_profiles
    order by profile_idx, profile_hash
),

labelled as (
    select distinct
        idx,
        label
    from public.labels
),

-- The sum does not depend on the order of the rows, and counts repeated ones.
activity as (
    select
        idx,
        sum(hash_record_extended(row(valid_from, valid_to, scd_a, scd_b), 0)) as source_hash
    from public.customer_activity
    group by idx
),

found as (
    select
        profiles.profile_idx,
        profiles.profile,
        labelled.label,
        activity.idx is not null as has_activity,
        case
            when activity.idx is not null and labelled.idx is not null
                then hash_record_extended(row(profiles.profile_hash, labelled.label, activity.source_hash), 0)
        end as source_hash
    from profiles
    left join activity
        on profiles.profile_idx = activity.idx
    left join labelled
        on profiles.profile_idx = labelled.idx
),

run as (
    select coalesce(current_setting('pipeline.run_type', true), '') = 'manual' as is_by_hand
),

known as (
    select
        idx,
        source_hash
    from pipeline.client_hashes

    union all

    -- Clients whose rows were inserted by hand.
    select
        inserted.idx,
        null as source_hash
    from (
        select idx
        from public.feature_history
        where known_to is null
        except
        select idx
        from pipeline.client_hashes
    ) as inserted
    where (select run.is_by_hand from run)
)

select
    coalesce(found.profile_idx, known.idx) as idx,
    found.*,
    known.source_hash as known_hash,
    (
        found.source_hash is distinct from known.source_hash
        or (select run.is_by_hand from run)
    ) as is_changed
from found
full join known
    on found.profile_idx = known.idx;

-- check_customers.sql rejects such files, but rows can also be written by hand.
select
    pipeline.reject(concat(
        'feature_store: clients with two different profiles or labels: ', count(*), ', the first of them: ', min(idx),
        '. The table has one row per client, so it stays as it was. Correct customer_profiles or labels, then clear',
        ' this run.'
    ))
from (
    select idx
    from clients
    where source_hash is not null
    group by idx
    having count(*) > 1
) as ambiguous
having count(*) > 0;

delete from pipeline.rejected_builds;

insert into pipeline.rejected_builds (loads, error)
with counted as (
    select
        count(known_hash) as known,
        count(source_hash) as found,
        count(*) filter (where known_hash is not null and source_hash is null) as lost
    from clients
)

select
    sources.loads,
    concat(
        'feature_store: ', counted.lost, ' of ', counted.known, ' clients would be lost, and ', counted.found,
        ' would be in the table. At most ', current_setting('pipeline.max_loss'), ' % may be lost, so it stays as it',
        ' was. Correct the customer files. If the clients are meant to go, raise FEATURE_STORE_MAX_LOSS and trigger',
        ' feature_store.'
    ) as error
from pipeline.feature_sources as sources
cross join counted
where
    counted.lost > counted.known * current_setting('pipeline.max_loss')::numeric / 100
    and not sources.is_approved;

-- No row if the build is rejected. known_at must grow from build to build, or what was known at a moment would change
-- later. A setting of an earlier transaction is an empty text, which is neither an interval nor a number.
create temporary table build on commit drop as
with earlier as (
    select
        max(known_at) as known_at,
        max(kept_from) as kept_from
    from pipeline.feature_store_builds
)

select
    sources.loads,
    case
        when sources.published_at > coalesce(earlier.known_at, '-infinity') then sources.published_at
        else greatest(now(), earlier.known_at + interval '1 microsecond')
    end as known_at,
    greatest(
        earlier.kept_from, nullif(now() - current_setting('pipeline.keep_for')::interval, '-infinity')
    ) as kept_from
from pipeline.feature_sources as sources
cross join earlier
where not exists (
    select rejected.error
    from pipeline.rejected_builds as rejected
);

select
    pipeline.notice(concat(
        'feature_store: ', count(source_hash), ' of ', count(*), ' clients with a profile; left out: ',
        count(*) filter (where not has_activity), ' without an activity, ', count(*) filter (where label is null),
        ' without a label (a client may lack both)'
    ))
from clients
where profile_idx is not null;

delete from clients
where not exists (
    select known_at
    from build
);

analyze clients;
