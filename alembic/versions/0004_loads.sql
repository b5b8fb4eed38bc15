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

create schema staging;

comment on schema staging is 'Files as they were downloaded, before they are published: one table per load.';

create schema pipeline;

comment on schema pipeline is 'The ledger of loads, and the functions that the SQL files under sql/ call.';

grant usage on schema staging, pipeline to pipeline;

create table pipeline.loads (
    load_id bigint generated always as identity primary key,
    table_name text not null,
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

create table pipeline.open_tables (
    table_id regclass primary key,
    opened_at timestamptz not null default clock_timestamp()
);

comment on table pipeline.open_tables is 'Tables of public that have been published, and were then opened to readers.';
comment on column pipeline.open_tables.table_id is 'The table.';
comment on column pipeline.open_tables.opened_at is 'When it was first published.';

create function pipeline.is_distributed(table_id regclass)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regclass('pg_catalog.pg_dist_partition') is null then
        return false;
    end if;
    return exists (select from pg_catalog.pg_dist_partition where logicalrelid = table_id);
end
$$;

comment on function pipeline.is_distributed(regclass) is
'Whether the rows of a table are on the servers of a Citus cluster: see 0013_citus.sql.';

create function pipeline.lock_out_readers(table_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select
        from pg_locks
        inner join pg_class
            on pg_locks.relation = pg_class.oid
        where
            pg_locks.pid = pg_backend_pid()
            and pg_locks.mode = 'AccessExclusiveLock'
            and pg_class.relnamespace = 'public'::regnamespace
    ) then
        -- Shorter than deadlock_timeout: a reader that holds this table and waits for another one of ours goes on.
        perform set_config('lock_timeout', '300ms', true);
    else
        perform set_config('lock_timeout', '3s', true);
    end if;
    execute format('lock table only public.%I in access exclusive mode', table_name);
exception
    when query_canceled then
        if
            not pipeline.is_distributed(format('public.%I', table_name)::regclass)
            or sqlerrm like '%statement timeout%'
        then
            raise;
        end if;
        -- Citus cancels one of two transactions that wait for each other, for however short a time. A person who
        -- cancels the statement in these seconds has to do it again.
        raise exception using message = sqlerrm, errcode = 'lock_not_available';
end
$$;

comment on function pipeline.lock_out_readers(text) is
'Until the transaction ends, readers of a table of public wait. It fails if they do not release the table in 3 seconds,
or less if this transaction locks out the readers of another table already. Sets lock_timeout.';

create function pipeline.own_table(table_name text)
returns regclass
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_table constant regclass := (
        select oid
        from pg_class
        where
            relnamespace = 'public'::regnamespace
            and relname = table_name
            and relkind in ('r', 'p')
            and relowner = 'pipeline_owner'::regrole
    );
begin
    if found_table is null then
        perform pipeline.reject(format(
            '"%s" is not a table of the pipeline in schema public, so nothing was changed. Name one that the migrations'
            ' make.', table_name
        ));
    end if;
    return found_table;
end
$$;

comment on function pipeline.own_table(text) is
'The table of public with this name. It fails unless pipeline_owner owns it: what is on a table of others, such as the
function of an index, would run with the rights of the function that works on the table.';

create function pipeline.grant_to_readers(table_name text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    opened constant regclass := pipeline.own_table(table_name);
begin
    insert into pipeline.open_tables (table_id) values (opened) on conflict do nothing;
    if found then
        execute format('grant select on %s to ds_user_role', opened);
        execute format('grant all on %s to mle_user_role', opened);
    end if;
end
$$;

comment on function pipeline.grant_to_readers(text) is
'Grants the privileges on a table of public, once. Afterwards they are changed only by hand.';

create function pipeline.open_to_readers(table_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    patience constant text := current_setting('lock_timeout');
    opened constant regclass := format('public.%I', table_name)::regclass;
begin
    if
        exists (select from pipeline.open_tables where table_id = opened)
        and not pipeline.is_distributed(opened)
    then
        return;
    end if;
    begin
        -- A statement that begins now waits, and then sees the rows with the privileges.
        perform pipeline.lock_out_readers(table_name);
    exception
        when lock_not_available or deadlock_detected then
            null; -- Another session uses the table.
    end;
    perform set_config('lock_timeout', patience, true);
    perform pipeline.grant_to_readers(table_name);
end
$$;

comment on function pipeline.open_to_readers(text) is
'The end of publishing a table of public. In the transaction that first publishes it, it grants the privileges: before,
readers get "permission denied" instead of an empty table. Where the rows are on several servers, which do not commit at
the same moment, it also lets readers wait until all have.';

create function pipeline.lock_file(table_name text, sale_month date)
returns void
language sql
set search_path = pg_catalog, pg_temp
return pg_advisory_xact_lock(hashtext('pipeline.' || table_name), coalesce(sale_month - date '2000-01-01', 0));

comment on function pipeline.lock_file(text, date) is
'Until the transaction ends, no other transaction can request or publish this file; other files do not wait.';

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
    columns text := format('like %s including all', pipeline.own_table(begin_load.table_name));
begin
    perform pipeline.lock_file(begin_load.table_name, begin_load.sale_month);

    update pipeline.loads
    set outcome = 'failed', problem = 'The process that loaded the file was killed.', changed_at = clock_timestamp()
    where
        loads.table_name = begin_load.table_name
        and loads.sale_month is not distinct from begin_load.sale_month
        and loads.outcome = 'loading'
        and not pipeline.is_running(loads.load_id);

    -- A run that starts again does not publish what it staged before.
    update pipeline.loads
    set outcome = 'superseded', changed_at = clock_timestamp()
    where
        loads.table_name = begin_load.table_name
        and loads.sale_month is not distinct from begin_load.sale_month
        and loads.dag_run = begin_load.dag_run
        and loads.outcome in ('staged', 'checked', 'held');

    perform pipeline.discard_staged(loads.load_id)
    from pg_class
    inner join pipeline.loads
        on pg_class.relname = loads.table_name || '_' || loads.load_id
    where
        pg_class.relnamespace = 'staging'::regnamespace
        and (
            loads.outcome in ('waiting', 'failed', 'published', 'superseded')
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
        columns := columns || format(
            ', constraint "the date is in the month of the file" check (date >= %L and date < %L)',
            this.sale_month, (this.sale_month + interval '1 month')::date
        );
        -- Created and then attached, which lets readers of sales pass; CREATE TABLE ... PARTITION OF would not.
        if to_regclass('partitions.' || this.partition_name) is null then
            execute format('create table partitions.%I (like public.sales including all)', this.partition_name);
            execute format('alter table partitions.%I replica identity full', this.partition_name);
            execute format(
                'alter table public.sales attach partition partitions.%I for values from (%L) to (%L)',
                this.partition_name, this.sale_month, (this.sale_month + interval '1 month')::date
            );
        end if;
    elsif (select relkind <> 'p' from pg_class where oid = format('public.%I', this.table_name)::regclass) then
        columns := columns || ' excluding indexes'; -- A file may repeat a row; the check decides.
    end if;
    execute format('create table %s (%s)', this.staged_table, columns);
    -- As a partition it has no key, and a publication of all tables needs an identity of the rows that are deleted.
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
    update pipeline.loads
    set
        outcome = 'staged',
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

create function pipeline.publish_load(load bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this pipeline.loads;
    previous pipeline.loads;
    superseded bigint;
begin
    perform pipeline.lock_file(table_name, sale_month) from pipeline.loads where load_id = load;
    select * into this from pipeline.loads where load_id = load;

    if this.outcome = 'published' then
        return;
    elsif this.outcome = 'superseded' then
        perform pipeline.report(format(
            '%s: load %s is superseded by a later load of the file, so it changes nothing.', this.address, load
        ));
        return;
    elsif this.outcome is distinct from 'checked' then
        perform pipeline.reject(concat(
            'Load ', load, ' of ' || this.address, ' is ', coalesce(this.outcome, 'not in pipeline.loads'),
            ': ' || this.problem, '. Only a checked load can be published, and the tables stay as they were. Clear this',
            ' run from its staging tasks on.'
        ));
    end if;

    select * into previous
    from pipeline.loads
    where
        table_name = this.table_name
        and sale_month is not distinct from this.sale_month
        and outcome in ('published', 'archived');

    if previous.requested_at > this.requested_at then
        update pipeline.loads set outcome = 'superseded', changed_at = clock_timestamp() where load_id = load;
        perform pipeline.discard_staged(load);
        perform pipeline.publish_load(load);
        return;
    end if;

    for superseded in
        update pipeline.loads
        set outcome = 'superseded', changed_at = clock_timestamp()
        where
            table_name = this.table_name
            and sale_month is not distinct from this.sale_month
            and outcome in ('staged', 'checked', 'held', 'published', 'archived')
            and requested_at < this.requested_at
        returning load_id
    loop
        perform pipeline.discard_staged(superseded);
    end loop;
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

comment on function pipeline.publish_load(bigint) is
'Makes a checked load the published one of its file, unless a file that was requested later is published. The rest of
the transaction brings the tables to what the published loads hold.';

create function pipeline.open_staged(load bigint, view_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
-- Citus warns of temporary views.
set client_min_messages = error
as $$
declare
    this pipeline.loads;
begin
    select * into this from pipeline.loads where load_id = load;
    begin
        if to_regclass(this.staged_table) is not null then
            execute format('create or replace temporary view %I as select * from %s', view_name, this.staged_table);
            execute format(
                'create or replace temporary view %I as select * from %s tablesample system (%s) repeatable (0)',
                view_name || '_sample', this.staged_table, least(100, 5e6 / greatest(this.row_count, 1))
            );
            return;
        end if;
    exception
        when undefined_table then
            null; -- Another load has dropped it, because this one is superseded.
    end;

    select * into this from pipeline.loads where load_id = load;
    if this.outcome is distinct from 'superseded' then
        perform pipeline.reject(concat(
            'Load ', load, ' of ' || this.address, ' is ', coalesce(this.outcome, 'not in pipeline.loads'),
            ': ' || this.problem, '. It has no staged rows, so there is nothing to check. Clear this run from its',
            ' staging tasks on.'
        ));
    end if;
    -- The rows of a superseded load are dropped, and its run goes on to its end. A month is checked with the published
    -- stores instead of superseded ones; any other superseded load counts as empty, and changes nothing.
    execute format(
        'create or replace temporary view %I as select * from public.%I where %L', view_name, this.table_name,
        this.table_name = 'stores'
    );
    execute format(
        'create or replace temporary view %I as select * from %I', view_name || '_sample', view_name
    );
end
$$;

comment on function pipeline.open_staged(bigint, text) is
'Gives the staged rows of a load a name for the rest of the session: a temporary view. A second view, whose name ends in
_sample, shows all rows up to 50,000, and above that about so many.';

-- Functions with their owner's rights are for the pipeline alone.
revoke execute on function
pipeline.begin_load(text, date, text, text),
pipeline.stage_load(bigint, text, timestamptz, bigint, text, bigint),
pipeline.discard_staged(bigint),
pipeline.grant_to_readers(text)
from public;

grant execute on function
pipeline.begin_load(text, date, text, text),
pipeline.stage_load(bigint, text, timestamptz, bigint, text, bigint),
pipeline.discard_staged(bigint),
pipeline.grant_to_readers(text)
to pipeline;

grant select on pipeline.open_tables to pipeline;
