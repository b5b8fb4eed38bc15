-- Writes the difference between the tables of the features and what they should be: rows that did not change stay.
--
-- Reads       the temporary tables build, clients and resolved; feature_rows
-- Writes      feature_history and feature_store: the rows that have changed; deletes superseded rows after
--             FEATURE_HISTORY_KEEP_DAYS; pipeline.client_hashes: the changed clients; pipeline.feature_store_builds
-- Idempotent  Yes. A second run finds no difference, and adds a row to feature_store_builds.

-- A planner that knows how few clients have changed looks up their rows by the key.
set local enable_nestloop = on;

-- The rows of the changed clients, as feature_history should show them. A feature is chosen here, and where
-- feature_store is updated.
create temporary view history as
select
    resolved.idx,
    resolved.valid_from,
    resolved.valid_to,
    row(
        resolved.idx,
        (clients.profile).attr_a,
        (clients.profile).attr_b,
        resolved.scd_a,
        resolved.scd_b,
        clients.label
    )::public.feature_store as features
from resolved
inner join clients
    on resolved.idx = clients.idx;

-- Rows that are as new as this build were inserted by hand, and were known at no time before it.
delete from public.feature_history
where
    known_to is null
    and known_from >= (select build.known_at from build)
    and idx in (
        select clients.idx
        from clients
        where clients.is_changed
    );

-- The rows that are known no longer come first, because the key allows one row per day.
with superseded as (
    select
        kept.idx,
        kept.valid_from
    from public.feature_rows as kept
    inner join clients
        on kept.idx = clients.idx
    where
        kept.known_to is null
        and clients.is_changed
        and not exists (
            select
            from history
            where
                history.idx = kept.idx
                and history.valid_from = kept.valid_from
                and history.valid_to is not distinct from kept.valid_to
                and history.features is not distinct from kept.features
        )
)

update public.feature_history
set known_to = (select build.known_at from build)
from superseded
where
    feature_history.idx = superseded.idx
    and feature_history.valid_from = superseded.valid_from
    and feature_history.known_to is null;

insert into public.feature_history
with kept as (
    select
        feature_history.idx,
        feature_history.valid_from
    from public.feature_history
    inner join clients
        on feature_history.idx = clients.idx
    where
        feature_history.known_to is null
        and clients.is_changed
)

select
    history.valid_from,
    history.valid_to,
    (select build.known_at from build) as known_from,
    null as known_to,
    (history.features).*
from history
where not exists (
    select
    from kept
    where
        kept.idx = history.idx
        and kept.valid_from = history.valid_from
);

drop view history;

delete from public.feature_history
where known_to < (select build.kept_from from build);

-- The view's rows have the columns of feature_store, in their order.
merge into public.feature_store as kept
using (
    select (features).*
    from public.feature_rows
    where
        known_to is null
        and valid_to is null
) as history
    on kept.idx = history.idx
when matched
and row(history.*) is distinct from row(kept.*)
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
    insert values (history.*)
when not matched by source
then
    delete;

delete from pipeline.client_hashes
using clients
where
    client_hashes.idx = clients.idx
    and clients.is_changed;

insert into pipeline.client_hashes (idx, source_hash)
select
    idx,
    source_hash
from clients
where
    is_changed
    and source_hash is not null;

insert into pipeline.feature_store_builds (known_at, kept_from, row_count, history_row_count, loads)
select
    build.known_at,
    build.kept_from,
    (select count(*) from public.feature_store) as row_count,
    (
        select count(*)
        from public.feature_history
        where feature_history.known_to is null
    ) as history_row_count,
    build.loads
from build;
