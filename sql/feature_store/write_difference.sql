-- Writes the difference between the tables of the features and what they should be: rows that did not change stay.
--
-- Reads       the temporary tables build, clients and resolved; feature_rows
-- Writes      feature_history and feature_store: the rows that have changed; deletes superseded rows after
--             FEATURE_HISTORY_KEEP_DAYS; pipeline.client_hashes: the changed clients; pipeline.feature_store_builds
-- Idempotent  Yes. A second run finds no difference, and adds a row to feature_store_builds.

-- A planner that knows how few clients have changed looks up their rows by the key.
set local enable_nestloop = on;

-- First the rows that are known no longer, because the key allows one row per day.
with expected as (
    select
        idx,
        valid_from,
        valid_to,
        attr_a,
        attr_b,
        scd_a,
        scd_b,
        label
    from resolved
)

update public.feature_history
set known_to = (select build.known_at from build)
from clients
where
    feature_history.idx = clients.idx
    and feature_history.known_to is null
    and clients.is_changed
    and not exists (
        select
        from expected
        where
            expected.idx = feature_history.idx
            and expected.valid_from = feature_history.valid_from
            and (
                expected.valid_to, expected.attr_a, expected.attr_b, expected.scd_a, expected.scd_b, expected.label
            )
            is not distinct from (
                feature_history.valid_to, feature_history.attr_a, feature_history.attr_b,
                feature_history.scd_a, feature_history.scd_b, feature_history.label
            )
    );

insert into public.feature_history (
    idx, valid_from, valid_to, attr_a, attr_b, scd_a, scd_b, label, known_from
)
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
    resolved.idx,
    resolved.valid_from,
    resolved.valid_to,
    resolved.attr_a,
    resolved.attr_b,
    resolved.scd_a,
    resolved.scd_b,
    resolved.label,
    (select build.known_at from build) as known_from
from resolved
where not exists (
    select
    from kept
    where
        kept.idx = resolved.idx
        and kept.valid_from = resolved.valid_from
);

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

insert into pipeline.feature_store_builds (
    known_at, kept_from, row_count, history_row_count, profiles_load, activity_load, labels_load
)
select
    build.known_at,
    build.kept_from,
    (select count(*) from public.feature_store) as row_count,
    (
        select count(*)
        from public.feature_history
        where feature_history.known_to is null
    ) as history_row_count,
    build.profiles_load,
    build.activity_load,
    build.labels_load
from build;
