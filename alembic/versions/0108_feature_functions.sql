create function pipeline.create_feature_rows()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- With the rights of its reader, because the features are closed until they are built.
    execute (
        select
            format(
                'create or replace view public.feature_rows with (security_invoker = true) as'
                ' select valid_from, valid_to, known_from, known_to, idx, row(%s)::public.feature_store as features'
                ' from public.feature_history', string_agg(quote_ident(attname), ', ' order by attnum)
            )
        from pg_attribute
        where attrelid = 'public.feature_store'::regclass and attnum > 0 and not attisdropped
    );
end
$$;

comment on function pipeline.create_feature_rows() is
'Creates the view feature_rows with the columns that feature_store has: for the migration that adds or drops one.';

select pipeline.create_feature_rows();

comment on view public.feature_rows is
'The rows of feature_history, each with its features as a row of feature_store. The rebuild of feature_store,
feature_store_as_of and feature_store_at read it.';
comment on column public.feature_rows.idx is 'Client: customer_profiles.idx.';
comment on column public.feature_rows.valid_from is 'First day of the period that the row applies to.';
comment on column public.feature_rows.valid_to is
'Day on which the next row of the client begins; null for the last row.';
comment on column public.feature_rows.known_from is 'feature_history.known_from';
comment on column public.feature_rows.known_to is 'feature_history.known_to; null while the row is known.';
comment on column public.feature_rows.features is 'The row, as feature_store shows the last one.';

-- For the rebuild, which takes the rows of feature_store from it.
grant select on public.feature_rows to pipeline;

-- mle_user may overload the functions of public. A call whose arguments have exactly the declared types finds no
-- overload; one that needs a default could.
create function public.require_known(known_at timestamptz, idx integer[], day date[])
returns boolean
language plpgsql
stable
parallel safe
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    kept constant timestamptz := (select max(kept_from) from pipeline.feature_store_builds);
begin
    if require_known.known_at < kept then
        perform pipeline.reject(format(
            'Superseded rows of feature_history are deleted up to %s, so what was known at %s is not complete any more.'
            ' Choose a later moment.', kept, require_known.known_at
        ));
    elsif cardinality(require_known.idx) <> cardinality(require_known.day) then
        perform pipeline.reject(format(
            'idx has length %s and day has length %s. Pass arrays of equal length.',
            cardinality(require_known.idx), cardinality(require_known.day)
        ));
    end if;
    return true;
end
$$;

comment on function public.require_known(timestamptz, integer[], date[]) is
'True; fails if what was known at this moment is no longer complete, or if the arrays differ in length.';

-- Texts and not BEGIN ATOMIC, which would keep the columns of today. They are read again in each session, so they
-- qualify every name, and the operands of each operator have its types.
create function public.feature_store_as_of(day date, known_at timestamptz)
returns setof public.feature_store
language sql
stable
parallel safe
as $$
    select (features).*
    from public.feature_rows
    where
        public.require_known($2, '{}'::integer[], '{}'::pg_catalog.date[])
        and valid_from <= $1
        and (valid_to > $1 or valid_to is null)
        and known_from <= $2
        and (known_to is null or known_to > $2)
$$;

comment on function public.feature_store_as_of(date, timestamptz) is
'The features of each client on that day, as they were known at that moment.';

create function public.feature_store_as_of(day date)
returns setof public.feature_store
language sql
stable
parallel safe
as $$
    select * from public.feature_store_as_of($1, 'infinity'::pg_catalog.timestamptz)
$$;

comment on function public.feature_store_as_of(date) is
'The features of each client on that day, as they are known now. Clients whose first activity began later are left out.
On a day after all rows of the files it equals feature_store.';

create function public.feature_store_at(idx integer[], day date[], known_at timestamptz)
returns table (
    day date,
    features public.feature_store
)
language sql
stable
parallel safe
as $$
    -- Sorted pairs find their rows next to each other. A join without a limit would hash the whole history.
    with pairs as (
        select
            given.idx,
            given.day,
            given.position
        from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) with ordinality as given (idx, day, position)
        where public.require_known($3, $1, $2)
        order by given.idx
    )

    select
        pairs.day,
        coalesce(
            history.features,
            pg_catalog.jsonb_populate_record(null::public.feature_store, pg_catalog.jsonb_build_object('idx', pairs.idx))
        )
    from pairs
    left join
        lateral (
            select
                begun.valid_to,
                begun.features
            from public.feature_rows as begun
            where
                begun.idx = pairs.idx
                and begun.valid_from <= pairs.day
                and begun.known_from <= $3
                and (begun.known_to is null or begun.known_to > $3)
            order by begun.valid_from desc
            limit 1
        ) as history
        on pairs.day < history.valid_to or history.valid_to is null
    order by pairs.position
$$;

comment on function public.feature_store_at(integer[], date[], timestamptz) is
'The features of each pair of a client and a day, as they were known at that moment.';

create function public.feature_store_at(idx integer[], day date[])
returns table (
    day date,
    features public.feature_store
)
language sql
stable
parallel safe
as $$
    select * from public.feature_store_at($1, $2, 'infinity'::pg_catalog.timestamptz)
$$;

comment on function public.feature_store_at(integer[], date[]) is
'The features of each pair of a client and a day: one row per pair, in the order of the arrays, with nulls if nothing is
known of the client on the day. (features).* has the columns of feature_store.';

-- mle_user_role has it by the default privileges of the schema.
grant execute on function
public.require_known(timestamptz, integer[], date[]),
public.feature_store_as_of(date, timestamptz),
public.feature_store_as_of(date),
public.feature_store_at(integer[], date[], timestamptz),
public.feature_store_at(integer[], date[])
to ds_user_role;

-- Undo

drop function
public.feature_store_as_of(date),
public.feature_store_as_of(date, timestamptz),
public.feature_store_at(integer[], date[]),
public.feature_store_at(integer[], date[], timestamptz);

drop function public.require_known(timestamptz, integer[], date[]);

drop view public.feature_rows;

drop function pipeline.create_feature_rows;
