create table public.feature_store (
    idx integer primary key,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer not null
);

comment on table public.feature_store is
'One row for every client that has a profile, an activity and a label, with its latest activity.';
comment on column public.feature_store.idx is 'Client: customer_profiles.idx.';
comment on column public.feature_store.attr_a is 'customer_profiles.attr_a';
comment on column public.feature_store.attr_b is 'customer_profiles.attr_b';
comment on column public.feature_store.scd_a is 'customer_activity.scd_a of the latest activity';
comment on column public.feature_store.scd_b is 'customer_activity.scd_b of the latest activity';
comment on column public.feature_store.label is 'labels.label';

-- pipeline.open_to_readers grants them when the table is first published.
revoke all on public.feature_store from ds_user_role, mle_user_role;

create unlogged table staging.clients (
    idx integer not null,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer,
    has_activity boolean not null
);

comment on table staging.clients is 'Every client with a profile, as the feature store should show it.';
comment on column staging.clients.idx is 'Client.';
comment on column staging.clients.attr_a is 'customer_profiles.attr_a.';
comment on column staging.clients.attr_b is 'customer_profiles.attr_b.';
comment on column staging.clients.scd_a is 'customer_activity.scd_a of the latest activity.';
comment on column staging.clients.scd_b is 'customer_activity.scd_b of the latest activity.';
comment on column staging.clients.label is 'labels.label; null without one.';
comment on column staging.clients.has_activity is 'Whether there is an activity at all.';

create table pipeline.feature_store_builds (
    built_at timestamptz primary key default clock_timestamp(),
    row_count bigint not null,
    profiles_load bigint references pipeline.loads,
    activity_load bigint references pipeline.loads,
    labels_load bigint references pipeline.loads
);

comment on table pipeline.feature_store_builds is 'Every rebuild of the feature store, and its loads.';
comment on column pipeline.feature_store_builds.built_at is 'When.';
comment on column pipeline.feature_store_builds.row_count is 'Clients in the feature store.';
comment on column pipeline.feature_store_builds.profiles_load is 'Load of customer_profiles.';
comment on column pipeline.feature_store_builds.activity_load is 'Load of customer_activity.';
comment on column pipeline.feature_store_builds.labels_load is 'Load of labels.';

create view pipeline.stale_tables as
with newest as (
    select *
    from pipeline.feature_store_builds
    order by built_at desc
    limit 1
)

select 'feature_store' as table_name
from pipeline.loads
left join newest
    on loads.load_id in (newest.profiles_load, newest.activity_load, newest.labels_load)
where
    loads.outcome = 'published'
    and loads.table_name in ('customer_profiles', 'customer_activity', 'labels')
having
    count(*) = 3
    and count(newest.built_at) < 3;

comment on view pipeline.stale_tables is
'Tables that were not built from the loads that are published now. A table whose files have never been published is not
stale.';
comment on column pipeline.stale_tables.table_name is 'Table in public.';

grant select, insert, update, delete on public.feature_store to pipeline;

grant select, insert, update, truncate on staging.clients to pipeline;

grant select, insert on pipeline.feature_store_builds to pipeline;

grant select on pipeline.stale_tables to pipeline;
