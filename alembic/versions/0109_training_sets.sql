create table pipeline.training_sets (
    set_name text primary key,
    query text not null,
    known_at timestamptz not null,
    loads bigint[] not null,
    row_count bigint not null,
    set_hash text not null,
    made_by text not null default session_user,
    made_at timestamptz not null default clock_timestamp()
);

comment on table pipeline.training_sets is 'Every training set that was recorded; readers see it in public.';
comment on column pipeline.training_sets.set_name is 'Its name.';
comment on column pipeline.training_sets.query is 'Query that makes it; $1 is known_at.';
comment on column pipeline.training_sets.known_at is 'Moment whose knowledge it uses.';
comment on column pipeline.training_sets.loads is 'Loads of the profiles, the activity and the labels known then.';
comment on column pipeline.training_sets.row_count is 'Its rows.';
comment on column pipeline.training_sets.set_hash is 'SHA-256 over its rows, in whatever order.';
comment on column pipeline.training_sets.made_by is 'Login.';
comment on column pipeline.training_sets.made_at is 'When it was recorded.';

create view public.training_sets (name, query, known_at, loads, row_count, hash, made_by, made_at) as
select
    set_name,
    query,
    known_at,
    loads,
    row_count,
    set_hash,
    made_by,
    made_at
from pipeline.training_sets;

-- Written by make_training_set alone.
revoke insert, update, delete on public.training_sets from mle_user_role;

comment on view public.training_sets is 'Every training set that make_training_set recorded.';
comment on column public.training_sets.name is 'Its name.';
comment on column public.training_sets.query is 'Query that makes it; $1 is known_at.';
comment on column public.training_sets.known_at is 'Moment whose knowledge of the features it uses.';
comment on column public.training_sets.loads is
'Loads of the profiles, the activity and the labels that were known then; data_freshness names their versions.';
comment on column public.training_sets.row_count is 'Its rows.';
comment on column public.training_sets.hash is 'SHA-256 over its rows. It does not depend on their order.';
comment on column public.training_sets.made_by is 'Login that made it.';
comment on column public.training_sets.made_at is 'When it was made.';

create function pipeline.training_moment(known_at timestamptz)
returns timestamptz
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    newest constant timestamptz := (select max(builds.known_at) from pipeline.feature_store_builds as builds);
begin
    if newest is null then
        perform pipeline.reject(
            'There are no features yet, so no training set can be made. Make it when feature_store has been built.'
        );
    end if;
    perform public.require_known(training_moment.known_at, '{}'::integer[], '{}'::date[]);
    return least(training_moment.known_at, newest);
end
$$;

comment on function pipeline.training_moment(timestamptz) is
'This moment, or that of the newest build if it is earlier or null is given: what was known at it does not change.';

create function pipeline.measure_training_set(
    query text, known_at timestamptz, out row_count bigint, out hash text
)
language plpgsql
-- The query finds the tables of public; all else is qualified, so that no function of others runs instead.
set search_path = pg_catalog, public, pg_temp
-- The text of a row must not depend on the session.
set datestyle = 'ISO, YMD'
set timezone = 'UTC'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set bytea_output = 'hex'
as $$
begin
    execute pg_catalog.format(
        $measure$
        select
            pg_catalog.count(*),
            pg_catalog.encode(
                pg_catalog.sha256(
                    pg_catalog.convert_to(
                        pg_catalog.concat_ws(
                            ' ', pg_catalog.count(*), pg_catalog.sum(upper_half), pg_catalog.sum(lower_half)
                        ), 'UTF8'
                    )
                ), 'hex'
            )
        from (
            select
                pg_catalog.concat('x', pg_catalog.substr(digest, 1, 16))::bit(64)::bigint as upper_half,
                pg_catalog.concat('x', pg_catalog.substr(digest, 17, 16))::bit(64)::bigint as lower_half
            from (
                select
                    pg_catalog.encode(
                        pg_catalog.sha256(pg_catalog.convert_to(row(made.*)::text, 'UTF8')), 'hex'
                    ) as digest
                from (
                    %s
                ) as made
            ) as digests
        ) as halves
        $measure$, pg_catalog.rtrim(query, E'; \n\t')
    ) into row_count, hash using known_at;
end
$$;

comment on function pipeline.measure_training_set(text, timestamptz) is
'Runs a query with the rights of the caller; $1 in it is the moment. The hash is made of the sum of the rows'' hashes.';

create function pipeline.record_training_set(
    name text, query text, known_at timestamptz, row_count bigint, hash text
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_is_in_recovery() then
        perform pipeline.reject(
            'This server is a standby, so nothing can be recorded. Make the training set on the primary server;'
            ' repeat_training_set works on both.'
        );
    end if;
    -- A login that may only read writes these rows.
    if length(name) > 100 or length(query) > 20000 then
        perform pipeline.reject(
            'The name has more than 100 characters or the query more than 20,000, so nothing was recorded. Shorten it.'
        );
    elsif (select count(*) from pipeline.training_sets as recorded where made_by = session_user) >= 1000 then
        perform pipeline.reject(format(
            '%s has 1,000 training sets, so no more are recorded. admin can delete some from pipeline.training_sets.',
            session_user
        ));
    end if;
    insert into pipeline.training_sets (set_name, query, known_at, loads, row_count, set_hash)
    values (
        record_training_set.name,
        record_training_set.query,
        record_training_set.known_at,
        coalesce(
            (
                select builds.loads
                from pipeline.feature_store_builds as builds
                where builds.known_at <= record_training_set.known_at
                order by builds.known_at desc
                limit 1
            ), '{}'
        ),
        record_training_set.row_count,
        record_training_set.hash
    );
exception
    when unique_violation then
        perform pipeline.reject(format(
            'There is a training set "%s" already, so nothing was recorded. Choose another name.', name
        ));
end
$$;

comment on function pipeline.record_training_set(text, text, timestamptz, bigint, text) is
'Records a training set that was measured.';

create function public.make_training_set(name text, query text, known_at timestamptz)
returns public.training_sets
language sql
begin atomic
    select pipeline.record_training_set($1, $2, moments.moment, measured.row_count, measured.hash)
    from pipeline.training_moment($3) as moments (moment)
    cross join lateral pipeline.measure_training_set($2, moments.moment) as measured;

    select
        recorded.name,
        recorded.query,
        recorded.known_at,
        recorded.loads,
        recorded.row_count,
        recorded.hash,
        recorded.made_by,
        recorded.made_at
    from public.training_sets as recorded
    where recorded.name = $1;
end;

comment on function public.make_training_set(text, text, timestamptz) is
'Runs a query, in which $1 is this moment, or that of the newest build if it is null or later; records it in
training_sets.';

create function public.make_training_set(name text, query text)
returns public.training_sets
language sql
return public.make_training_set($1, $2, null::timestamptz);

comment on function public.make_training_set(text, text) is
'Runs a query, in which $1 is the moment of the newest build, and records it in training_sets.';

create function public.repeat_training_set(name text)
returns table (
    name text,
    row_count bigint,
    hash text,
    is_same boolean
)
language sql
begin atomic
    select
        pipeline.reject(
            case
                when recorded.name is null then format('There is no training set "%s". training_sets lists all.', $1)
                else format(
                    'The training set "%s" was made by %s, and its query is run with the rights of its caller. Log in'
                    ' as %s, or read the query in training_sets and make it under another name.',
                    $1, recorded.made_by, recorded.made_by
                )
            end
        )
    from (values ($1)) as asked (name)
    left join public.training_sets as recorded
        on asked.name = recorded.name
    where recorded.made_by is distinct from session_user;

    select
        recorded.name,
        measured.row_count,
        measured.hash,
        measured.row_count = recorded.row_count and measured.hash = recorded.hash as is_same
    from public.training_sets as recorded
    cross join lateral pipeline.training_moment(recorded.known_at) as moments (moment)
    cross join lateral pipeline.measure_training_set(recorded.query, moments.moment) as measured
    where recorded.name = $1;
end;

comment on function public.repeat_training_set(text) is
'Makes a training set again, for the login that made it, and says whether it has the same rows. The sum of
floating-point numbers depends on the order of the rows: a query that adds them up casts them to numeric.';

-- mle_user_role has the functions of public by the default privileges of the schema.
revoke execute on function
pipeline.training_moment(timestamptz),
pipeline.record_training_set(text, text, timestamptz, bigint, text)
from public;

grant execute on function
pipeline.training_moment(timestamptz),
pipeline.record_training_set(text, text, timestamptz, bigint, text)
to ds_user_role, mle_user_role;

grant execute on function
public.make_training_set(text, text, timestamptz),
public.make_training_set(text, text),
public.repeat_training_set(text)
to ds_user_role;

-- Undo

drop function
public.make_training_set(text, text),
public.make_training_set(text, text, timestamptz),
public.repeat_training_set(text);

drop function pipeline.training_moment, pipeline.measure_training_set;

drop function pipeline.record_training_set;

drop view public.training_sets;

drop table pipeline.training_sets;
