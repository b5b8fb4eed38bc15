-- What Citus needs in other words. The results are those of the functions that stand under alembic/versions.

-- Those of alembic/versions, which take_back.sql restores. They have no settings of their own.
create table if not exists migrations.replaced_functions (signature regprocedure primary key, definition text not null);

insert into migrations.replaced_functions (signature, definition)
select
    oid,
    pg_get_functiondef(oid)
from pg_proc
where
    -- Not by name: what take_back.sql creates, as admin, must not be an overload by mle_user.
    oid in (
        'public.feature_store_as_of(date, timestamptz)'::regprocedure,
        'public.feature_store_at(integer[], date[], timestamptz)'::regprocedure
    )
    and proconfig is null
on conflict (signature) do update
    set definition = excluded.definition;

-- With a setting, so that it is not inlined: Citus plans no function in SQL with parameters as a part of another query.
-- The coordinator alone can say what is known.
create or replace function public.feature_store_as_of(day date, known_at timestamptz)
returns setof public.feature_store
language sql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with asked as materialized (
        select public.require_known($2, '{}'::integer[], '{}'::date[]) as is_known
    )

    select (features).*
    from public.feature_rows
    where
        (select asked.is_known from asked)
        and valid_from <= $1
        and (valid_to > $1 or valid_to is null)
        and known_from <= $2
        and (known_to is null or known_to > $2)
$$;

-- Without a lateral join, which Citus does not do between given rows and a distributed table. The rows of a client that
-- are known at a moment do not overlap, so there is at most one per day.
create or replace function public.feature_store_at(idx integer[], day date[], known_at timestamptz)
returns table (
    day date,
    features public.feature_store
)
language sql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with pairs as materialized (
        select
            given.idx,
            given.day,
            given.position
        from rows from (unnest($1), unnest($2)) with ordinality as given (idx, day, position)
        where public.require_known($3, $1, $2)
    ),

    found as materialized (
        select
            pairs.position,
            history.features
        from public.feature_rows as history
        inner join pairs
            on
                history.idx = pairs.idx
                and history.valid_from <= pairs.day
                and (history.valid_to > pairs.day or history.valid_to is null)
        where
            history.known_from <= $3
            and (history.known_to is null or history.known_to > $3)
    )

    select
        pairs.day,
        coalesce(
            found.features, jsonb_populate_record(null::public.feature_store, jsonb_build_object('idx', pairs.idx))
        )
    from pairs
    left join found
        on pairs.position = found.position
    order by pairs.position
$$;
