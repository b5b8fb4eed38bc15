-- It ends with the columns of feature_store, in their order.
create table public.feature_history (
    valid_from date not null,
    valid_to date check (valid_to > valid_from),
    known_from timestamptz not null,
    known_to timestamptz check (known_to > known_from),
    idx integer not null,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer not null
) partition by list (known_to);

comment on table public.feature_history is
'The features of every client that has a profile, an activity and a label, on every day, and when they were known. The
rows of a client that are known now (known_to is null) follow each other without a gap from its first day on.';
comment on column public.feature_history.idx is 'Client: customer_profiles.idx.';
comment on column public.feature_history.valid_from is 'First day of the period that the row applies to.';
comment on column public.feature_history.valid_to is
'Day on which the next row of the client begins; null for the last row, which is the row of feature_store.';
comment on column public.feature_history.attr_a is 'customer_profiles.attr_a';
comment on column public.feature_history.attr_b is 'customer_profiles.attr_b';
comment on column public.feature_history.scd_a is 'customer_activity.scd_a of the latest activity on these days';
comment on column public.feature_history.scd_b is 'customer_activity.scd_b of the latest activity on these days';
comment on column public.feature_history.label is 'labels.label';
comment on column public.feature_history.known_from is
'When the newest of the three files that the row was built from was published.';
comment on column public.feature_history.known_to is
'The same of the files that replaced or removed the row; null while the row is known.';

-- What is known now. The key makes two rows of a client for one day impossible.
create table partitions.feature_history_known
partition of public.feature_history (primary key (idx, valid_from)) for values in (null)
with (vacuum_truncate = off);

create table partitions.feature_history_superseded
partition of public.feature_history default
with (vacuum_truncate = off);

-- So the planner leaves the partition out for the moment infinity.
alter table partitions.feature_history_superseded
add constraint feature_history_superseded_known_to check (known_to is not null and known_to < 'infinity');

create index feature_history_superseded_idx on partitions.feature_history_superseded (idx, valid_from);

create table public.feature_store (
    idx integer primary key,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer not null
) with (vacuum_truncate = off);

comment on table public.feature_store is
'One row for every client that has a profile, an activity and a label, with its latest activity: the last row of each
client in feature_history.';
comment on column public.feature_store.idx is 'Client: customer_profiles.idx.';
comment on column public.feature_store.attr_a is 'customer_profiles.attr_a';
comment on column public.feature_store.attr_b is 'customer_profiles.attr_b';
comment on column public.feature_store.scd_a is 'customer_activity.scd_a of the latest activity';
comment on column public.feature_store.scd_b is 'customer_activity.scd_b of the latest activity';
comment on column public.feature_store.label is 'labels.label';

-- pipeline.open_feature_store grants them when the tables have rows: a reader that waits for the features is denied
-- until then, and never finds an empty table.
revoke all on public.feature_history, public.feature_store from ds_user_role, mle_user_role;

-- Read as a whole, so it has no key.
create table pipeline.client_hashes (
    idx integer not null,
    source_hash bigint not null
);

comment on table pipeline.client_hashes is
'The source rows that the known rows of each client in feature_history were built from.';
comment on column pipeline.client_hashes.idx is 'Client.';
comment on column pipeline.client_hashes.source_hash is 'Hash of its profile, its label and all its activity.';

create table pipeline.feature_store_builds (
    build_id bigint generated always as identity primary key,
    built_at timestamptz not null default clock_timestamp(),
    known_at timestamptz not null,
    kept_from timestamptz,
    row_count bigint not null default 0,
    history_row_count bigint not null default 0,
    loads bigint[] not null default '{}'
);

create index feature_store_builds_known_at on pipeline.feature_store_builds (known_at);

comment on table pipeline.feature_store_builds is 'Every rebuild of feature_history and feature_store, and its loads.';
comment on column pipeline.feature_store_builds.build_id is 'The later of two builds has the greater one.';
comment on column pipeline.feature_store_builds.built_at is 'When.';
comment on column pipeline.feature_store_builds.known_at is
'known_from of the rows that it inserted, and known_to of those that it superseded: when the newest of its loads was
published. If an earlier build knew that load or a later moment, the rows were changed by hand, and it is the time of the
build.';
comment on column pipeline.feature_store_builds.kept_from is
'Superseded rows that were known until an earlier moment are deleted; null if all are kept.';
comment on column pipeline.feature_store_builds.row_count is 'Clients in the feature store.';
comment on column pipeline.feature_store_builds.history_row_count is 'Rows of feature_history that are known.';
comment on column pipeline.feature_store_builds.loads is 'The published loads that it read: feature_sources.loads.';

create table pipeline.rejected_builds (
    loads bigint[] not null,
    error text not null
);

comment on table pipeline.rejected_builds is
'The newest attempt at a rebuild, if it would have lost too many clients; otherwise no row.';
comment on column pipeline.rejected_builds.loads is 'The published loads that it read: feature_sources.loads.';
comment on column pipeline.rejected_builds.error is 'What would be lost, and what to do.';

-- Published together with the profiles, or the profiles themselves.
update pipeline.sources
set derived_tables = '{feature_history, feature_store}'
where table_name = 'customer_profiles';

-- All that the rebuild knows of the ledger.
create view pipeline.feature_sources as
with newest as (
    select
        loads,
        known_at
    from pipeline.feature_store_builds
    order by build_id desc
    limit 1
),

published as (
    select
        coalesce(
            array_agg(loads.load_id order by sources.place) filter (where loads.load_id is not null), '{}'
        ) as loads,
        max(loads.published_at) as published_at,
        count(*) = count(loads.load_id) as is_complete
    from pipeline.sources
    left join pipeline.files
        on sources.table_name = files.table_name
    left join pipeline.loads
        on
            files.file_id = loads.file_id
            and loads.status = 'published'
    where 'customer_profiles' in (sources.table_name, sources.published_with)
)

select
    published.loads,
    published.published_at,
    rejected_builds.error as rejection,
    (published.is_complete and published.loads is distinct from newest.loads) as is_stale,
    -- A person has approved files that were published since, even if later ones have replaced them.
    (
        select count(*) > 0
        from pipeline.loads
        inner join pipeline.file_rows
            on loads.file_id = file_rows.file_id
        where
            'customer_profiles' in (file_rows.table_name, file_rows.published_with)
            and loads.published_at > newest.known_at
            and loads.decided_by not like 'ON_ANOMALY=%'
    ) as is_approved
from published
left join newest
    on true
left join pipeline.rejected_builds
    on published.loads = rejected_builds.loads;

comment on view pipeline.feature_sources is 'The published loads of the customer files, in one row.';

create view pipeline.feature_freshness as
select
    built.table_name,
    built.loaded_at,
    built.row_count,
    feature_sources.rejection as error,
    case when feature_sources.is_stale then 'stale' else 'loaded' end as status,
    (
        select string_agg(loads.sha256, ' ' order by array_position(build.loads, loads.load_id))
        from pipeline.loads
        where loads.load_id = any(build.loads)
    ) as file_version,
    (
        select max(loads.max_date)
        from pipeline.loads
        where loads.load_id = any(build.loads)
    ) as up_to
from (
    select *
    from pipeline.feature_store_builds
    order by build_id desc
    limit 1
) as build
cross join pipeline.feature_sources
cross join lateral (
    values
    ('feature_history', build.known_at, build.history_row_count),
    ('feature_store', build.built_at, build.row_count)
) as built (table_name, loaded_at, row_count);

comment on view pipeline.feature_freshness is
'What data_freshness shows of the features; no row before the first build.';

create table pipeline.features_opened (
    opened_at timestamptz not null default clock_timestamp()
);

comment on table pipeline.features_opened is 'One row, once the features have been opened to their readers.';
comment on column pipeline.features_opened.opened_at is 'When.';

create function pipeline.open_feature_store()
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select opened_at from pipeline.features_opened) then
        return;
    end if;
    -- One after the other, or two that have read feature_store would wait for each other below.
    lock table pipeline.features_opened in share row exclusive mode;
    if exists (select opened_at from pipeline.features_opened) or not exists (select idx from public.feature_store) then
        return;
    end if;
    insert into pipeline.features_opened default values;
    -- A reader that is past its check of privileges ends first; one that comes now sees the rows with the privileges.
    lock table public.feature_history, public.feature_store in access exclusive mode;
    grant select on public.feature_history, public.feature_store to ds_user_role;
    grant all on public.feature_history, public.feature_store to mle_user_role;
end
$$;

comment on function pipeline.open_feature_store() is
'Grants the privileges on the features to their readers, once: after the first build that has a row. What a person
revokes later stays revoked.';

revoke execute on function pipeline.open_feature_store() from public;

grant execute on function pipeline.open_feature_store() to pipeline;

-- A publication for all tables would otherwise stop the deletes.
alter table partitions.feature_history_superseded replica identity full;

alter table pipeline.client_hashes replica identity full;

alter table pipeline.rejected_builds replica identity full;

grant select, insert, update, delete
on public.feature_history, public.feature_store, pipeline.client_hashes, pipeline.rejected_builds
to pipeline;

grant select, insert on pipeline.feature_store_builds to pipeline;

grant select on pipeline.feature_sources to pipeline;

-- Undo

update pipeline.sources
set derived_tables = '{}'
where table_name = 'customer_profiles';

drop function pipeline.open_feature_store;

drop view pipeline.feature_freshness, pipeline.feature_sources;

drop table pipeline.client_hashes, pipeline.feature_store_builds, pipeline.rejected_builds;

drop table pipeline.features_opened, public.feature_history, public.feature_store;
