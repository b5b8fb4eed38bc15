create function public.feature_store_as_of(day date)
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
parallel safe
begin atomic
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
        and history.known_to is null;
end;

comment on function public.feature_store_as_of(date) is
'The features of each client on that day, as they are known now. Clients whose first activity began later are left out.
On a day after all rows of the files it equals feature_store.';

create function public.feature_store_as_of(day date, known_at timestamptz)
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
parallel safe
begin atomic
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
end;

comment on function public.feature_store_as_of(date, timestamptz) is
'The features of each client on that day, as they were known at that moment.';

create function public.feature_store_at(idx integer[], day date[])
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
parallel safe
begin atomic
    -- Sorted pairs find their rows next to each other. A join without a limit would hash the whole history.
    with pairs as (
        select
            given.idx,
            given.day,
            given.position
        from unnest($1, $2) with ordinality as given (idx, day, position)
        order by given.idx
    )

    select
        pairs.idx,
        pairs.day,
        history.attr_a,
        history.attr_b,
        history.scd_a,
        history.scd_b,
        history.label
    from pairs
    left join
        lateral (
            select
                begun.valid_to,
                begun.attr_a,
                begun.attr_b,
                begun.scd_a,
                begun.scd_b,
                begun.label
            from public.feature_history as begun
            where
                begun.idx = pairs.idx
                and begun.valid_from <= pairs.day
                and begun.known_to is null
            order by begun.valid_from desc
            limit 1
        ) as history
        on pairs.day < history.valid_to or history.valid_to is null
    order by pairs.position;
end;

comment on function public.feature_store_at(integer[], date[]) is
'The features of each pair of a client and a day, as they are known now: one row per pair, in the order of the arrays,
with nulls if nothing is known of the client on the day.';

create function public.feature_store_at(idx integer[], day date[], known_at timestamptz)
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
parallel safe
begin atomic
    -- Sorted pairs find their rows next to each other. A join without a limit would hash the whole history.
    with pairs as (
        select
            given.idx,
            given.day,
            given.position
        from unnest($1, $2) with ordinality as given (idx, day, position)
        order by given.idx
    )

    select
        pairs.idx,
        pairs.day,
        history.attr_a,
        history.attr_b,
        history.scd_a,
        history.scd_b,
        history.label
    from pairs
    left join
        lateral (
            select
                begun.valid_to,
                begun.attr_a,
                begun.attr_b,
                begun.scd_a,
                begun.scd_b,
                begun.label
            from public.feature_history as begun
            where
                begun.idx = pairs.idx
                and begun.valid_from <= pairs.day
                and begun.known_from <= $3
                and (begun.known_to > $3 or begun.known_to is null)
            order by begun.valid_from desc
            limit 1
        ) as history
        on pairs.day < history.valid_to or history.valid_to is null
    order by pairs.position;
end;

comment on function public.feature_store_at(integer[], date[], timestamptz) is
'The features of each pair of a client and a day, as they were known at that moment, in the order of the arrays.';

-- mle_user_role has it by the default privileges of the schema.
grant execute on function
public.feature_store_as_of(date),
public.feature_store_as_of(date, timestamptz),
public.feature_store_at(integer[], date[]),
public.feature_store_at(integer[], date[], timestamptz)
to ds_user_role;
