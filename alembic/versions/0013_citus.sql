-- No limit: moving the rows may take hours.
set local statement_timeout = 0;

-- Citus creates functions and tables in one transaction only in this mode.
select set_config('citus.multi_shard_modify_mode', 'sequential', true);

-- pipeline writes these two and pipeline_owner writes sales. Citus rejects writes of two roles to colocated tables in
-- one transaction.
select create_reference_table('public.stores');

select create_reference_table('public.monthly_sales');

select create_distributed_table('public.sales', 'store_idx', colocate_with => 'none');

select create_distributed_table('public.customer_profiles', 'idx', colocate_with => 'none');

select create_distributed_table(of_client, 'idx', colocate_with => 'public.customer_profiles')
from unnest(array[
    'public.customer_activity', 'public.labels', 'public.feature_history', 'public.feature_store',
    'staging.clients', 'staging.feature_history', 'pipeline.client_hashes'
]) as of_client;

select truncate_local_data_after_distributing_table(pg_dist_partition.logicalrelid)
from pg_dist_partition
inner join pg_class
    on pg_dist_partition.logicalrelid = pg_class.oid
where not pg_class.relispartition;

-- The owner of what follows.
set local role pipeline_owner;

-- Citus plans no query with the parameters of a SQL function, so these are replaced by functions in PL/pgSQL. To plan
-- theirs, it sets parameters, which a parallel query does not allow.
create or replace function public.feature_store_as_of(day date, known_at timestamptz)
returns table (
    idx integer,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        history.idx,
        history.attr_a,
        history.attr_b,
        history.scd_a,
        history.scd_b,
        history.label
    from public.feature_history as history
    where
        history.valid_from <= $1
        and (history.valid_to > $1 or history.valid_to is null)
        and history.known_from <= $2
        and (history.known_to > $2 or history.known_to is null);
end
$$;

create or replace function public.feature_store_as_of(day date)
returns table (
    idx integer,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer
)
language sql
stable
begin atomic
    select
        known.idx,
        known.attr_a,
        known.attr_b,
        known.scd_a,
        known.scd_b,
        known.label
    from public.feature_store_as_of($1, 'infinity') as known;
end;

-- One client is asked for on its own server alone. Pairs are joined where the rows are, which outer joins are not.
create function pipeline.features_of_pairs(clients integer[], days date[], known_at timestamptz)
returns table (
    client integer,
    on_day date,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if cardinality(clients) = 1 and cardinality(days) = 1 then
        return query
        select
            clients[1],
            days[1],
            history.attr_a,
            history.attr_b,
            history.scd_a,
            history.scd_b,
            history.label
        from public.feature_history as history
        where
            history.idx = clients[1]
            and history.valid_from <= days[1]
            and (history.valid_to > days[1] or history.valid_to is null)
            and history.known_from <= $3
            and (history.known_to > $3 or history.known_to is null);
        if not found then
            client := clients[1];
            on_day := days[1];
            return next;
        end if;
        return;
    end if;

    return query
    with pairs as materialized (
        select
            given.idx,
            given.day,
            given.position
        from unnest(clients, days) with ordinality as given (idx, day, position)
    ),

    known as materialized (
        select
            pairs.position,
            history.attr_a,
            history.attr_b,
            history.scd_a,
            history.scd_b,
            history.label
        from pairs
        inner join public.feature_history as history
            on
                pairs.idx = history.idx
                and pairs.day >= history.valid_from
                and (pairs.day < history.valid_to or history.valid_to is null)
                and history.known_from <= $3
                and (history.known_to > $3 or history.known_to is null)
    )

    select
        pairs.idx,
        pairs.day,
        known.attr_a,
        known.attr_b,
        known.scd_a,
        known.scd_b,
        known.label
    from pairs
    left join known
        on pairs.position = known.position
    order by pairs.position;
end
$$;

comment on function pipeline.features_of_pairs(integer[], date[], timestamptz) is
'feature_store_at on a Citus cluster.';

create or replace function public.feature_store_at(idx integer[], day date[], known_at timestamptz)
returns table (
    idx integer,
    day date,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer
)
language sql
stable
begin atomic
    select
        pairs.client,
        pairs.on_day,
        pairs.attr_a,
        pairs.attr_b,
        pairs.scd_a,
        pairs.scd_b,
        pairs.label
    from pipeline.features_of_pairs($1, $2, $3) as pairs;
end;

create or replace function public.feature_store_at(idx integer[], day date[])
returns table (
    idx integer,
    day date,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer
)
language sql
stable
begin atomic
    select
        pairs.client,
        pairs.on_day,
        pairs.attr_a,
        pairs.attr_b,
        pairs.scd_a,
        pairs.scd_b,
        pairs.label
    from pipeline.features_of_pairs($1, $2, 'infinity') as pairs;
end;

reset role;
