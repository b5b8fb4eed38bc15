-- The life of a load:
--
--     begin_load ── request_file ── stage_load ── check_load ── publish_load
--     loading       loading         staged        checked       published ── superseded
--        │                                        │    │
--        └── stop_load: waiting,                  │    └── hold_load: held ── decide_load: checked, rejected
--            rejected, failed                     └── rejected
--
-- published     Its rows are in public now. Each file has at most one such load.
-- archived      Its rows are in schema archive: pipeline.archive_month took the month out of public.
-- superseded    A file that was requested later was published, before or after this load was.
-- waiting       The file of a month that has just ended is not there yet; Airflow tries again.
-- held          The file is odd, compared with those that are loaded; a person decides whether it is published.
-- rejected      The file, its server or a setting is wrong; the next try would find the same. Or a person rejected it.
-- failed        The network or a server failed, or the process was killed; Airflow tries again.

create schema pipeline;

comment on schema pipeline is 'The ledger of loads, and the functions that the SQL files under sql/ call.';

grant usage on schema pipeline to pipeline;

create table pipeline.sources (
    table_name text primary key,
    file_path text not null,
    decided_by text references pipeline.sources
);

comment on table pipeline.sources is 'The kinds of files, each with the table that it fills.';
comment on column pipeline.sources.table_name is
'Table in public; the one of that name in staging has the rules of the file.';
comment on column pipeline.sources.file_path is 'Path of the file below SOURCE_BASE_URL.';
comment on column pipeline.sources.decided_by is
'The source whose request decides which run is published, for files that belong together: sources.table_name.';

insert into pipeline.sources (table_name, file_path, decided_by) values
('customer_profiles', 'customer_profiles.csv', null),
('customer_activity', 'customer_activity.csv', 'customer_profiles'),
('labels', 'labels.csv', 'customer_profiles'),
('stores', 'stores.csv', null),
('sales', 'sales/YYYY-MM-01/sales.csv', null);

create table pipeline.loads (
    load_id bigint generated always as identity primary key,
    table_name text not null references pipeline.sources,
    sale_month date,
    address text not null,
    dag_run text not null,
    outcome text not null default 'loading' check (
        outcome in (
            'loading', 'waiting', 'staged', 'checked', 'held', 'published', 'archived', 'superseded', 'rejected',
            'failed'
        )
    ),
    problem text,
    oddities text,
    decided_by text,
    decided_at timestamptz,
    waits_until timestamptz,
    began_at timestamptz not null default clock_timestamp(),
    requested_at timestamptz,
    published_at timestamptz,
    changed_at timestamptz not null default clock_timestamp(),
    etag text,
    last_modified timestamptz,
    bytes bigint,
    sha256 text,
    row_count bigint,
    last_date date,
    total numeric,
    staged_table text not null generated always as (
        'staging.' || quote_ident(table_name || '_' || load_id)
    ) stored,
    partition_name text not null generated always as (
        table_name || coalesce(
            '_' || lpad(extract(year from sale_month)::text, 4, '0')
            || '_' || lpad(extract(month from sale_month)::text, 2, '0'), ''
        )
    ) stored,
    check ((table_name = 'sales') = (sale_month is not null)),
    check (extract(day from sale_month) = 1)
);

create unique index loads_published on pipeline.loads (table_name, sale_month) nulls not distinct
where outcome = 'published';

create index loads_of_file on pipeline.loads (table_name, sale_month);

comment on table pipeline.loads is 'Every attempt to load a source file. A file is a table, and for sales a month.';
comment on column pipeline.loads.load_id is 'The load, as its run passes it from step to step.';
comment on column pipeline.loads.table_name is 'Table in public that the file is for.';
comment on column pipeline.loads.sale_month is 'Month of the file; null for files that have none.';
comment on column pipeline.loads.address is 'Where the file was read, without credentials.';
comment on column pipeline.loads.dag_run is 'DAG and run that loaded the file.';
comment on column pipeline.loads.outcome is 'State of the load; see the life of a load in 0004_loads.sql.';
comment on column pipeline.loads.problem is 'Why the load is waiting, held, rejected or failed.';
comment on column pipeline.loads.oddities is
'What is odd about the file, compared with those that were loaded before; null if nothing is.';
comment on column pipeline.loads.decided_by is
'Who published or rejected the odd file: a person, or the setting by which nobody was asked.';
comment on column pipeline.loads.decided_at is 'When.';
comment on column pipeline.loads.waits_until is 'Until when a late file is waited for; null unless it is waiting.';
comment on column pipeline.loads.began_at is 'When the attempt began.';
comment on column pipeline.loads.requested_at is
'When the file was requested. Of two loads of a file, the later request decides which one is published.';
comment on column pipeline.loads.published_at is 'When the rows were published; stays when they are superseded.';
comment on column pipeline.loads.changed_at is 'When the load came to its present outcome.';
comment on column pipeline.loads.etag is 'ETag that the server sent.';
comment on column pipeline.loads.last_modified is 'Last-Modified that the server sent.';
comment on column pipeline.loads.bytes is 'Length of the CSV text.';
comment on column pipeline.loads.sha256 is 'SHA-256 of the CSV text: the version of the file.';
comment on column pipeline.loads.row_count is 'Rows in the file, its header not counted.';
comment on column pipeline.loads.last_date is 'Latest day in the file; null where it has no days.';
comment on column pipeline.loads.total is 'Sum of the sales of the file; null for other files.';
comment on column pipeline.loads.staged_table is 'Table that holds the rows until they are published.';
comment on column pipeline.loads.partition_name is 'Partition, in schema partitions, that the rows are published into.';

grant select on pipeline.sources to pipeline;

-- The functions change the other columns with their owner's rights.
grant
select,
update (
    outcome, problem, oddities, decided_by, decided_at, waits_until, requested_at, published_at, changed_at, last_date,
    total
)
on pipeline.loads to pipeline;

create function pipeline.reject(message text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using message = message, errcode = 'check_violation';
end
$$;

comment on function pipeline.reject(text) is
'Fails the transaction with this message: what happened, why the load stops, what to do.';

create function pipeline.report(message text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise notice using message = message;
end
$$;

comment on function pipeline.report(text) is 'Writes this message to the log of the task.';

-- $1 is the context.
create function pipeline.failed_trigger(context text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
return (
    select
        concat(
            'A trigger failed, so nothing was published: ',
            string_agg(
                format(
                    '%I on %s, which calls %s() of %s', pg_trigger.tgname, pg_trigger.tgrelid::regclass,
                    pg_proc.oid::regproc, pg_proc.proowner::regrole
                ),
                '; ' order by pg_trigger.tgrelid::regclass::text, pg_trigger.tgname
            ),
            '. The owner of the function can correct it, and the owner of the table can drop the trigger. Then clear',
            ' the run.'
        )
    from pg_trigger
    inner join pg_proc
        on pg_trigger.tgfoid = pg_proc.oid
    where
        not pg_trigger.tgisinternal
        and (
            strpos($1, format('function %I() ', pg_proc.proname)) > 0
            or strpos($1, format('function %s() ', pg_proc.oid::regproc)) > 0
        )
    having count(*) > 0
);

comment on function pipeline.failed_trigger(text) is
'Whose trigger an error is of, found by the functions that its context names; null if it is of none.';

create function pipeline.lock_file(table_name text, sale_month date)
returns void
language sql
set search_path = pg_catalog, pg_temp
return pg_advisory_xact_lock(hashtext('pipeline.' || table_name), coalesce(sale_month - date '2000-01-01', 0));

comment on function pipeline.lock_file(text, date) is
'Until the transaction ends, no other transaction can request or publish this file; other files do not wait.';

-- $1 is the load.
create function pipeline.requested_at(load pipeline.loads)
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
return coalesce(
    (
        select max(deciding.requested_at)
        from pipeline.sources
        inner join pipeline.loads as deciding
            on sources.decided_by = deciding.table_name
        where
            sources.table_name = ($1).table_name
            and deciding.dag_run = ($1).dag_run
            -- A run that starts again has other loads than those that it has published.
            and (
                deciding.published_at is not null
                or (
                    ($1).outcome <> 'published'
                    and deciding.outcome in ('staged', 'checked', 'held', 'superseded')
                )
            )
    ), ($1).requested_at
);

comment on function pipeline.requested_at(pipeline.loads) is
'When the file that decides for the load was requested: of two loads of a file, the later one is published.';

-- In PL/pgSQL, because Citus would copy the view that a SQL function's body depends on.
create function pipeline.is_running(load bigint)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select
        from pg_stat_activity
        where
            datname = current_database()
            and application_name = 'load ' || load
            and pg_has_role(usesysid, 'pipeline', 'member')
    );
end
$$;

comment on function pipeline.is_running(bigint) is
'Whether the session that stages this load is connected: begin_load names the session after the load. Anybody can name
a session, so only those of the pipeline count.';

-- $1 is the load.
create function pipeline.is_needed(load bigint)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
return exists (
    select
    from pipeline.loads as this
    inner join pipeline.loads as of_run
        on this.dag_run = of_run.dag_run
    where
        this.load_id = $1
        and of_run.outcome in ('loading', 'waiting', 'staged', 'checked', 'held')
);

comment on function pipeline.is_needed(bigint) is
'Whether a load of the same run can still be published: a month is published with the stores that it was checked with.';

create function pipeline.discard_staged(load bigint)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- Shorter than deadlock_timeout: a session that has locked its view of the table, and waits for the table, goes on.
set lock_timeout = '300ms'
as $$
declare
    staged constant text := (select staged_table from pipeline.loads where load_id = load);
begin
    if to_regclass(staged) is not null then
        execute 'lock table ' || staged || ' in access exclusive mode nowait';
        execute 'drop table ' || staged;
    end if;
exception
    when lock_not_available or undefined_table or dependent_objects_still_exist then
        null; -- A session reads the table, has a view of it, or drops it. The next load tries again.
end
$$;

comment on function pipeline.discard_staged(bigint) is
'Drops the staged table of a load, unless a session uses it; begin_load drops what was left.';

create function pipeline.begin_load(table_name text, sale_month date, address text, dag_run text)
returns pipeline.loads
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    this pipeline.loads;
    before bigint;
    month_rule text := '';
begin
    -- A table of others would bring what is on it, such as the function of an index, into the owner's rights.
    if not exists (select from pipeline.sources where sources.table_name = begin_load.table_name) then
        perform pipeline.reject(format(
            '"%s" is not in pipeline.sources, so no file of it is loaded. A migration adds it.', begin_load.table_name
        ));
    end if;
    perform pipeline.lock_file(begin_load.table_name, begin_load.sale_month);

    update pipeline.loads
    set outcome = 'failed', problem = 'The process that loaded the file was killed.', changed_at = clock_timestamp()
    where
        loads.table_name = begin_load.table_name
        and loads.sale_month is not distinct from begin_load.sale_month
        and loads.outcome = 'loading'
        and not pipeline.is_running(loads.load_id);

    -- A run that starts again does not publish what it staged before.
    for before in
        update pipeline.loads
        set outcome = 'superseded', changed_at = clock_timestamp()
        where
            loads.table_name = begin_load.table_name
            and loads.sale_month is not distinct from begin_load.sale_month
            and loads.dag_run = begin_load.dag_run
            and loads.outcome in ('staged', 'checked', 'held')
        returning load_id
    loop
        perform pipeline.discard_staged(before);
    end loop;

    perform pipeline.discard_staged(loads.load_id)
    from pg_class
    inner join pipeline.loads
        on pg_class.relname = loads.table_name || '_' || loads.load_id
    where
        pg_class.relnamespace = 'staging'::regnamespace
        and (
            loads.outcome in ('waiting', 'failed', 'published')
            or (loads.outcome = 'superseded' and not pipeline.is_needed(loads.load_id))
            or (
                loads.outcome = 'rejected'
                and loads.table_name = begin_load.table_name
                and loads.sale_month is not distinct from begin_load.sale_month
            )
        );

    insert into pipeline.loads (table_name, sale_month, address, dag_run)
    values (begin_load.table_name, begin_load.sale_month, begin_load.address, begin_load.dag_run)
    returning * into this;

    if this.sale_month is not null then
        month_rule := format(
            ', constraint "the date is in the month of the file" check (date >= %L and date < %L)',
            this.sale_month, (this.sale_month + interval '1 month')::date
        );
        -- Created and then attached, which lets readers of sales pass; CREATE TABLE ... PARTITION OF would not.
        if to_regclass('partitions.' || this.partition_name) is null then
            execute format(
                'create table partitions.%I (like public.sales including all) with (vacuum_truncate = off)',
                this.partition_name
            );
            execute format('alter table partitions.%I replica identity full', this.partition_name);
            execute format(
                'alter table public.sales attach partition partitions.%I for values from (%L) to (%L)',
                this.partition_name, this.sale_month, (this.sale_month + interval '1 month')::date
            );
        end if;
    end if;
    execute format(
        'create table %s (like staging.%I including all%s)', this.staged_table, this.table_name, month_rule
    );
    -- A publication of all tables needs it for the truncation of an attempt.
    execute format('alter table %s replica identity full', this.staged_table);
    execute format('grant select, insert, truncate on %s to pipeline', this.staged_table);

    perform set_config('application_name', 'load ' || this.load_id, false);
    return this;
end
$$;

comment on function pipeline.begin_load(text, date, text, text) is
'Records that an attempt begins, creates its staged table, and removes what earlier attempts left.';

create function pipeline.request_file(load bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pipeline.lock_file(table_name, sale_month) from pipeline.loads where load_id = load;
    update pipeline.loads set requested_at = clock_timestamp() where load_id = load;
end
$$;

comment on function pipeline.request_file(bigint) is
'Locks the file and records the time of the request. The transaction ends when the server has begun to answer, so that
a later request never gets an older file.';

create function pipeline.stage_load(
    load bigint, etag text, last_modified timestamptz, bytes bigint, sha256 text, row_count bigint
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set default_statistics_target = 10
as $$
declare
    staged text;
begin
    perform pipeline.lock_file(table_name, sale_month) from pipeline.loads where load_id = load;
    update pipeline.loads
    set
        outcome = case
            when exists (
                select
                from pipeline.loads as later
                where
                    later.table_name = loads.table_name
                    and later.sale_month is not distinct from loads.sale_month
                    and later.outcome = 'published'
                    and pipeline.requested_at(later) > pipeline.requested_at(loads)
            ) then 'superseded'
            else 'staged'
        end,
        etag = stage_load.etag,
        last_modified = stage_load.last_modified,
        bytes = stage_load.bytes,
        sha256 = stage_load.sha256,
        row_count = stage_load.row_count,
        changed_at = clock_timestamp()
    where load_id = load and outcome = 'loading'
    returning staged_table into staged;
    if staged is null then
        raise exception 'Load % is not loading any more, so it is not staged. Clear this run.', load;
    end if;
    -- The next steps come before autovacuum, and would sort where they should hash. A small sample is enough.
    execute 'analyze ' || staged;
end
$$;

comment on function pipeline.stage_load(bigint, text, timestamptz, bigint, text, bigint) is
'Records, in the transaction of the COPY, that all rows of the file are staged.';

create function pipeline.stop_load(
    load bigint, outcome text, problem text, waits_until timestamptz default null
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pipeline.loads
    set
        outcome = stop_load.outcome,
        problem = stop_load.problem,
        waits_until = stop_load.waits_until,
        changed_at = clock_timestamp()
    where load_id = load and loads.outcome = 'loading';
    perform pipeline.discard_staged(load);
end
$$;

comment on function pipeline.stop_load(bigint, text, text, timestamptz) is
'Records why an attempt staged nothing: waiting, rejected or failed.';

create function pipeline.check_load(load bigint, problem text, last_date date, total numeric)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    update pipeline.loads
    set
        outcome = case when check_load.problem is null then 'checked' else 'rejected' end,
        problem = check_load.problem || ' (the rows are in ' || staged_table || ' until the file is loaded again)',
        oddities = null,
        decided_by = null,
        decided_at = null,
        last_date = check_load.last_date,
        total = check_load.total,
        changed_at = clock_timestamp()
    where load_id = load and outcome in ('staged', 'checked', 'held', 'rejected');
end
$$;

comment on function pipeline.check_load(bigint, text, date, numeric) is
'Records the verdict of a check: without a problem the load is checked, with one it is rejected.';

create function pipeline.require_checked(variadic load_ids bigint[])
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    select
        pipeline.reject(concat(
            string_agg(concat(address, ': ', problem), '; ' order by address),
            '. Nothing was published, and the tables stay as they were. When the file is corrected, clear this run.'
        ))
    from pipeline.loads
    where load_id = any(load_ids) and outcome = 'rejected'
    having count(*) > 0;
end;

comment on function pipeline.require_checked(bigint[]) is
'Fails with all verdicts at once if one of the loads is rejected.';

create function pipeline.hold_load(load bigint, oddities text)
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update pipeline.loads
    set
        outcome = case when hold_load.oddities is null then 'checked' else 'held' end,
        oddities = hold_load.oddities,
        problem = hold_load.oddities,
        decided_by = null,
        decided_at = null,
        changed_at = clock_timestamp()
    where load_id = load and (outcome in ('checked', 'held') or (outcome = 'rejected' and loads.oddities is not null));
end;

comment on function pipeline.hold_load(bigint, text) is
'Holds a checked load that is odd until decide_load is called; without oddities it stays checked.';

create function pipeline.decide_load(load bigint, is_approved boolean, decided_by text)
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update pipeline.loads
    set
        outcome = case when is_approved then 'checked' else 'rejected' end,
        problem = case when not is_approved then concat('Rejected by ', decide_load.decided_by, ': ', oddities) end,
        decided_by = decide_load.decided_by,
        decided_at = clock_timestamp(),
        changed_at = clock_timestamp()
    where load_id = load and outcome = 'held';
end;

comment on function pipeline.decide_load(bigint, boolean, text) is
'Records the decision on a held load: it can be published, or it is rejected.';

create function pipeline.publish_load(load bigint, may_be_superseded boolean default false)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this pipeline.loads;
    previous pipeline.loads;
begin
    perform pipeline.lock_file(table_name, sale_month) from pipeline.loads where load_id = load;
    select * into this from pipeline.loads where load_id = load;
    select * into previous
    from pipeline.loads
    where
        table_name = this.table_name
        and sale_month is not distinct from this.sale_month
        and outcome in ('published', 'archived');

    if may_be_superseded and this.outcome in ('published', 'superseded') then
        return;
    elsif this.outcome = 'published' then
        raise exception using errcode = 'PL002', message = format(
            '%s: load %s is published already, so nothing is changed.', this.address, load
        );
    elsif
        this.outcome = 'superseded'
        or (this.outcome = 'checked' and pipeline.requested_at(previous) > pipeline.requested_at(this))
    then
        if may_be_superseded then
            return;
        end if;
        raise exception using errcode = 'PL001', message = concat(
            this.address, ': load ', load, ' is superseded by load ' || previous.load_id,
            ', which requested the file later, so nothing is changed.'
        );
    elsif this.outcome is distinct from 'checked' then
        perform pipeline.reject(concat(
            'Load ', load, ' of ' || this.address, ' is ', coalesce(this.outcome, 'not in pipeline.loads'),
            ': ' || this.problem, '. Only a checked load can be published, and the tables stay as they were. Clear this',
            ' run from its staging tasks on.'
        ));
    end if;

    update pipeline.loads
    set outcome = 'superseded', changed_at = clock_timestamp()
    where
        table_name = this.table_name
        and sale_month is not distinct from this.sale_month
        and load_id <> load
        and outcome in ('staged', 'checked', 'held', 'published', 'archived')
        and pipeline.requested_at(loads) < pipeline.requested_at(this);
    update pipeline.loads
    set outcome = 'published', published_at = clock_timestamp(), changed_at = clock_timestamp()
    where load_id = load;

    if previous.sha256 <> this.sha256 then
        perform pipeline.report(concat(
            this.address, ' has changed since load ', previous.load_id, ' of ', previous.requested_at,
            ': rows ', previous.row_count, ' -> ', this.row_count,
            ', total ' || previous.total || ' -> ' || this.total,
            ', SHA-256 ', previous.sha256, ' -> ', this.sha256
        ));
    end if;
end
$$;

comment on function pipeline.publish_load(bigint, boolean) is
'Locks the file until the transaction ends, and makes a checked load the published one. An error with SQLSTATE PL001
says that a later request is published, and PL002 that the load is published already; a load that may be superseded
raises neither.';

create function pipeline.is_newest(load bigint)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
return exists (
    select
    from pipeline.loads
    where
        load_id = load
        and outcome = 'published'
);

comment on function pipeline.is_newest(bigint) is 'Whether this load is the published one of its file.';

create function pipeline.open_staged(load bigint, view_name text, may_be_superseded boolean default false)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
-- Citus warns of temporary views.
set client_min_messages = error
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    columns constant text := $columns$
        select string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum)
        from pg_attribute
        where
            attrelid = $1
            and attnum > 0
            and not attisdropped
    $columns$;
    staged_columns text;
    expected_columns text;
begin
    if
        to_regclass(this.staged_table) is null
        and this.outcome = 'superseded'
        and not (may_be_superseded and pipeline.is_needed(load))
    then
        raise exception using errcode = 'PL001', message = format(
            '%s: load %s is superseded, so there is nothing to do.', this.address, load
        );
    elsif to_regclass(this.staged_table) is null then
        perform pipeline.reject(concat(
            'Load ', load, ' of ' || this.address, ' is ', coalesce(this.outcome, 'not in pipeline.loads'),
            ': ' || this.problem, '. It has no staged rows, and the tables stay as they were. Clear this run from its',
            ' staging tasks on.'
        ));
    end if;
    execute columns using this.staged_table::regclass into staged_columns;
    execute columns using format('staging.%I', this.table_name)::regclass into expected_columns;
    if staged_columns <> expected_columns then
        perform pipeline.reject(format(
            '%s was staged with the columns (%s), and staging.%I has (%s) since a migration, so it is not published.'
            ' Clear this run from its staging tasks on.',
            this.address, staged_columns, this.table_name, expected_columns
        ));
    end if;
    execute format('create or replace temporary view %I as select * from %s', view_name, this.staged_table);
    execute format(
        'create or replace temporary view %I as select * from %s tablesample system (%s) repeatable (0)',
        view_name || '_sample', this.staged_table, least(100, 5e6 / greatest(this.row_count, 1))
    );
end
$$;

comment on function pipeline.open_staged(bigint, text, boolean) is
'Gives the staged rows of a load a name: a temporary view. A second one, whose name ends in _sample, shows all rows up
to 50,000, and above that about so many. A load whose columns differ from those of its staging table now is rejected.
SQLSTATE PL001 says that the load is superseded and its rows are dropped; one that may be superseded is
rejected then, if another load of its run can be published.';

create function pipeline.drop_staged(load bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    of_session regclass;
begin
    for of_session in
        select distinct pg_rewrite.ev_class::regclass
        from pg_depend
        inner join pg_rewrite
            on
                pg_depend.objid = pg_rewrite.oid
                and pg_depend.classid = 'pg_rewrite'::regclass
        inner join pg_class
            on pg_rewrite.ev_class = pg_class.oid
        where
            pg_depend.refobjid = to_regclass((select staged_table from pipeline.loads where load_id = load))
            and pg_class.relnamespace = pg_my_temp_schema()
    loop
        execute format('drop view %s', of_session);
    end loop;
    perform pipeline.discard_staged(load);
end
$$;

comment on function pipeline.drop_staged(bigint) is
'Drops the staged table of a load, with the views of this session on it.';

create function pipeline.verify_load(
    load bigint, row_count numeric, total numeric default null, aggregate numeric default null
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
begin
    if
        coalesce(verify_load.row_count, 0) <> this.row_count
        or coalesce(verify_load.total, 0) <> coalesce(this.total, 0)
        or coalesce(verify_load.aggregate, 0) <> coalesce(this.total, 0)
    then
        perform pipeline.reject(concat(
            this.address, ': public.', this.table_name, ' has ', coalesce(verify_load.row_count, 0), ' rows',
            ', total ' || verify_load.total, ', sum of the aggregate ' || verify_load.aggregate,
            ' after publishing, and the load that was checked has ', this.row_count, ' rows', ', total ' || this.total,
            '. Nothing was published. A trigger or a policy on the table changes or hides rows: pg_trigger and pg_policy',
            ' show them. When it is corrected, clear this run.'
        ));
    end if;
end
$$;

comment on function pipeline.verify_load(bigint, numeric, numeric, numeric) is
'Compares what stands in the tables with what was checked, and fails the publication if they differ: the rows, their
total, and the sum of the aggregate. What a source does not have is null.';

-- Functions with their owner's rights are for the pipeline alone.
revoke execute on function
pipeline.begin_load(text, date, text, text),
pipeline.stage_load(bigint, text, timestamptz, bigint, text, bigint),
pipeline.discard_staged(bigint)
from public;

grant execute on function
pipeline.begin_load(text, date, text, text),
pipeline.stage_load(bigint, text, timestamptz, bigint, text, bigint),
pipeline.discard_staged(bigint)
to pipeline;
