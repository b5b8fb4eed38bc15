-- Brings feature_history and feature_store to what the customer tables say: the features of every client that has a
-- profile, an activity and a label, on every day, and its last row.
--
-- Reads   customer_profiles, customer_activity, labels, pipeline.loads
-- Writes  feature_history and feature_store: the rows that have changed; deletes superseded rows after :keep_days;
--         pipeline.client_hashes: the clients that have changed; pipeline.feature_store_builds: which loads were used;
--         staging.clients and staging.feature_history, which are empty before and after
-- Twice?  Yes. The difference is written in one transaction; a second run waits for the lock, finds none, and adds a
--         row to feature_store_builds.

-- All statements see the customer tables and the ledger of one moment: nobody publishes a file until the end.
lock table public.customer_profiles, public.customer_activity, public.labels in share mode;

-- The planner knows no statistics of the staging tables, and would choose nested loops. To sort the clients costs less
-- than to hash them, because all joins then merge.
set local enable_nestloop = off;

set local enable_hashagg = off;

-- A hash of a million clients fits, and rows stay in the order in which indexes are filled fastest.
set local work_mem = '64MB';

-- Readers do not wait; another rebuild does.
lock table public.feature_history, public.feature_store in share row exclusive mode;

truncate staging.clients, staging.feature_history;

-- This build, and its known_at. It must grow from build to build, or what was known at a moment would change later.
insert into pipeline.feature_store_builds (known_at, kept_from, profiles_load, activity_load, labels_load)
with published as (
    select
        max(loads.published_at) as published_at,
        max(loads.load_id) filter (where files.table_name = 'customer_profiles') as profiles_load,
        max(loads.load_id) filter (where files.table_name = 'customer_activity') as activity_load,
        max(loads.load_id) filter (where files.table_name = 'labels') as labels_load
    from pipeline.loads
    inner join pipeline.files
        on loads.file_id = files.file_id
    where
        loads.status = 'published'
        and files.table_name in ('customer_profiles', 'customer_activity', 'labels')
),

earlier as (
    select
        max(known_at) as known_at,
        max(kept_from) as kept_from
    from pipeline.feature_store_builds
)

select
    case
        when published.published_at > coalesce(earlier.known_at, '-infinity') then published.published_at
        else greatest(now(), earlier.known_at + interval '1 microsecond')
    end as known_at,
    (
        select greatest(earlier.kept_from, now() - make_interval(days => nullif(%(keep_days)s::text, '')::integer))
    ) as kept_from,
    published.profiles_load,
    published.activity_load,
    published.labels_load
from published
cross join earlier;

-- A history that was emptied by hand is built again.
delete from pipeline.client_hashes
where not exists (
    select idx
    from public.feature_history
    where known_to is null
);

-- Each client, and whether it has changed since its rows in feature_history were built.
insert into staging.clients (idx, attr_a, attr_b, label, has_profile, has_activity, source_hash, is_changed)
with profiles as (
    select distinct
        idx,
        attr_a,
        attr_b
    from public.customer_profiles
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
        profiles.idx,
        profiles.attr_a,
        profiles.attr_b,
        labelled.label,
        activity.idx is not null as has_activity,
        case
            when activity.idx is not null and labelled.idx is not null
                then
                    hash_record_extended(
                        row(profiles.attr_a, profiles.attr_b, labelled.label, activity.source_hash), 0
                    )
        end as source_hash
    from profiles
    left join activity
        on profiles.idx = activity.idx
    left join labelled
        on profiles.idx = labelled.idx
)

select
    coalesce(found.idx, client_hashes.idx) as idx,
    found.attr_a,
    found.attr_b,
    found.label,
    found.idx is not null as has_profile,
    coalesce(found.has_activity, false) as has_activity,
    found.source_hash,
    -- Two nulls are not a change.
    coalesce(
        found.source_hash <> client_hashes.source_hash,
        coalesce(found.source_hash, client_hashes.source_hash) is not null
    ) as is_changed
from found
full join pipeline.client_hashes
    on found.idx = client_hashes.idx;

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
    where source_hash is not null
    group by idx
    having count(*) > 1
) as ambiguous
having count(*) > 0;

-- If many clients have changed, to sort their activities costs less than to find each of them in a hash table.
select set_config('enable_hashjoin', (10 * count(*) filter (where is_changed) < count(*))::text, true)
from staging.clients;

-- The latest activity of each changed client on each day. The rule stands in the second statement. The first one finds
-- the rows for which it comes to the same as the order of valid_from: no other row begins on that day, and all earlier
-- rows have ended, and not after it. Such a row is the latest until the next one begins, whether it has ended or not.
insert into staging.feature_history (
    idx, valid_from, valid_to, attr_a, attr_b, scd_a, scd_b, label, is_resolved
)
-- Distinct, although a client has one row: it lets the planner hash these rows, which are fewer than the activities.
with changed as (
    select distinct on (idx)
        idx,
        attr_a,
        attr_b,
        label
    from staging.clients
    where
        is_changed
        and source_hash is not null
    order by idx
),

in_order as (
    select
        activity.idx,
        activity.valid_from,
        activity.valid_to,
        changed.attr_a,
        changed.attr_b,
        activity.scd_a,
        activity.scd_b,
        changed.label,
        lead(activity.valid_from) over begun_before as next_from,
        lag(activity.valid_from) over begun_before as previous_from,
        max(coalesce(activity.valid_to, 'infinity')) over begun_before as last_end
    from public.customer_activity as activity
    inner join changed
        on activity.idx = changed.idx
    window begun_before as (
        partition by activity.idx
        order by activity.valid_from
        rows between unbounded preceding and 1 preceding
    )
)

select
    idx,
    valid_from,
    next_from as valid_to,
    attr_a,
    attr_b,
    scd_a,
    scd_b,
    label,
    previous_from is null
    or (
        previous_from < valid_from
        and last_end <= valid_from
        and (valid_to is null or valid_to >= last_end)
    ) as is_resolved
from in_order
where
    next_from is null
    or next_from > valid_from;

set local enable_hashjoin = on;

-- The rule: on a day, the rows that have begun are candidates. One that has not ended wins, or else the one that ended
-- last; of several the one that began last; the attributes decide between equal dates, so that every run chooses the
-- same row. A row has ended on valid_to. Between two rows that begin, only the end of a row can change the choice.
insert into staging.feature_history (
    idx, valid_from, valid_to, attr_a, attr_b, scd_a, scd_b, label, is_resolved
)
with parts as (
    select
        idx,
        valid_from as part_from,
        valid_to as part_to,
        attr_a,
        attr_b,
        label
    from staging.feature_history
    where not is_resolved
),

days as (
    select
        idx,
        part_from,
        part_from as changes_on
    from parts

    union

    select
        parts.idx,
        parts.part_from,
        activity.valid_to as changes_on
    from parts
    inner join public.customer_activity as activity
        on parts.idx = activity.idx
    where
        activity.valid_from <= parts.part_from
        and activity.valid_to > parts.part_from
        and (activity.valid_to < parts.part_to or parts.part_to is null)
),

latest as (
    select distinct on (days.idx, days.changes_on)
        days.idx,
        days.part_from,
        days.changes_on,
        activity.scd_a,
        activity.scd_b
    from days
    inner join public.customer_activity as activity
        on
            days.idx = activity.idx
            and days.part_from >= activity.valid_from
    order by
        days.idx asc,
        days.changes_on asc,
        coalesce(activity.valid_to > days.changes_on, true) desc,
        case when activity.valid_to <= days.changes_on then activity.valid_to end desc,
        activity.valid_from desc,
        activity.scd_a desc nulls last,
        activity.scd_b desc nulls last
),

with_previous as (
    select
        idx,
        part_from,
        changes_on,
        scd_a,
        scd_b,
        lag(scd_a) over by_day as previous_a,
        lag(scd_b) over by_day as previous_b
    from latest
    window by_day as (
        partition by idx, part_from
        order by changes_on
    )
)

select
    chosen.idx,
    chosen.changes_on as valid_from,
    coalesce(lead(chosen.changes_on) over by_day, parts.part_to) as valid_to,
    parts.attr_a,
    parts.attr_b,
    chosen.scd_a,
    chosen.scd_b,
    parts.label,
    true as is_resolved
from with_previous as chosen
inner join parts
    on
        chosen.idx = parts.idx
        and chosen.part_from = parts.part_from
where
    -- A row that ends need not change the choice.
    (
        chosen.changes_on = chosen.part_from
        or (chosen.scd_a, chosen.scd_b) is distinct from (chosen.previous_a, chosen.previous_b)
    )
    -- Without unresolved parts nothing is read.
    and exists (
        select unresolved.idx
        from staging.feature_history as unresolved
        where not unresolved.is_resolved
    )
window by_day as (
    partition by chosen.idx, chosen.part_from
    order by chosen.changes_on
);

delete from staging.feature_history
where not is_resolved;

-- A planner that knows how few clients have changed looks up their rows by the key.
select set_config('enable_nestloop', pipeline.analyze_clients()::text, true);

-- feature_history, by difference. First the rows that are known no longer, because the key allows one row per day.
update public.feature_history
set known_to = (select max(build.known_at) from pipeline.feature_store_builds as build)
from staging.clients
where
    feature_history.idx = clients.idx
    and feature_history.known_to is null
    and clients.is_changed
    and not exists (
        select
        from staging.feature_history as resolved
        where
            resolved.idx = feature_history.idx
            and resolved.valid_from = feature_history.valid_from
            and (
                resolved.valid_to, resolved.attr_a, resolved.attr_b, resolved.scd_a, resolved.scd_b, resolved.label
            )
            is not distinct from (
                feature_history.valid_to, feature_history.attr_a, feature_history.attr_b,
                feature_history.scd_a, feature_history.scd_b, feature_history.label
            )
    );

insert into public.feature_history (
    idx, valid_from, valid_to, attr_a, attr_b, scd_a, scd_b, label, known_from
)
with changed as (
    select distinct idx
    from staging.clients
    where is_changed
),

kept as (
    select
        history.idx,
        history.valid_from
    from public.feature_history as history
    inner join changed
        on history.idx = changed.idx
    where history.known_to is null
)

select
    resolved.idx,
    resolved.valid_from,
    resolved.valid_to,
    resolved.attr_a,
    resolved.attr_b,
    resolved.scd_a,
    resolved.scd_b,
    resolved.label,
    (select max(build.known_at) from pipeline.feature_store_builds as build) as known_from
from staging.feature_history as resolved
left join kept
    on
        resolved.idx = kept.idx
        and resolved.valid_from = kept.valid_from
where kept.idx is null;

-- Superseded rows are kept, unless the setting says for how long.
delete from public.feature_history
where known_to < now() - make_interval(days => nullif(%(keep_days)s::text, '')::integer);

-- feature_store, by difference: rows that did not change are not touched.
delete from public.feature_store
where not exists (
    select
    from staging.clients
    where
        clients.idx = feature_store.idx
        and clients.source_hash is not null
);

merge into public.feature_store as kept
using (
    select
        idx,
        attr_a,
        attr_b,
        scd_a,
        scd_b,
        label
    from public.feature_history
    where
        known_to is null
        and valid_to is null
) as history
    on kept.idx = history.idx
when matched
and (history.attr_a, history.attr_b, history.scd_a, history.scd_b, history.label)
is distinct from (kept.attr_a, kept.attr_b, kept.scd_a, kept.scd_b, kept.label)
then
    update
        set
            attr_a = history.attr_a,
            attr_b = history.attr_b,
            scd_a = history.scd_a,
            scd_b = history.scd_b,
            label = history.label
when not matched
then
    insert (idx, attr_a, attr_b, scd_a, scd_b, label)
    values (history.idx, history.attr_a, history.attr_b, history.scd_a, history.scd_b, history.label);

delete from pipeline.client_hashes
using staging.clients
where
    client_hashes.idx = clients.idx
    and clients.is_changed;

insert into pipeline.client_hashes (idx, source_hash)
select
    idx,
    source_hash
from staging.clients
where
    is_changed
    and source_hash is not null;

update pipeline.feature_store_builds
set
    built_at = statement_timestamp(),
    row_count = (select count(*) from public.feature_store),
    history_row_count = (
        select count(*)
        from public.feature_history as history
        where history.known_to is null
    )
where known_at = (select max(build.known_at) from pipeline.feature_store_builds as build);

select pipeline.open_feature_store();

select
    pipeline.notice(concat(
        'feature_store: ', count(*) filter (where source_hash is not null), ' of ', count(*),
        ' clients with a profile; left out: ', count(*) filter (where not has_activity), ' without an activity, ',
        count(*) filter (where label is null), ' without a label (a client may lack both)'
    ))
from staging.clients
where has_profile;

truncate staging.clients, staging.feature_history;
