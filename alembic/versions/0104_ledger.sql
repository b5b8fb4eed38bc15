-- The life of a load. Each arrow is one function, and nothing else changes pipeline.loads.status.
--
--     from              to                 by                 when
--     -                 loading            begin_load         an attempt begins
--     loading           staged             stage_load         all rows of the file are in its staged table
--     loading           superseded         stage_load         a file that was requested later is published already
--     loading           waiting            stop_load          the file of a month that has just ended is not there yet
--     loading           not_in_source      stop_load          the source has no file of this month and of none before
--     loading           rejected           stop_load          the file, its server or a setting is wrong
--     loading           failed             stop_load          the network or a server failed; Airflow tries again
--     loading           failed             clean_up           the process was killed
--     staged            checked            check_load         the check found no error
--     staged            rejected           check_load         the check found one; its rows stay, to be looked at
--     checked           rejected           check_load         checked again; or comparing or publishing rejects it
--     rejected          checked            check_load         checked again, for example with a corrected stores.csv
--     staged, rejected  superseded         check_load         a later request is published already
--     pending_approval  checked, rejected  check_load         checked again
--     checked           pending_approval   request_approval   the file is unusual, and a person decides
--     pending_approval  checked, rejected  decide_load        a person approves or rejects it
--     pending_approval  failed             decide_load        the answer came after decide_until, or its run has ended
--     pending_approval  failed             clean_up           nobody decided until decide_until
--     staged, checked   failed             clean_up           the run did not publish it for 30 days
--     checked           published          publish_load       its rows are in public now
--     staged            superseded         publish_load       a file that was requested later is published; the same
--     checked           superseded         publish_load       for pending_approval, published and retired
--     pending_approval  superseded         publish_load
--     published         superseded         publish_load
--     retired           superseded         publish_load
--     staged, checked   superseded         begin_load         its run begins again; the same for pending_approval
--     pending_approval  superseded         begin_load
--     published         retired            retire_load        its month was taken out of the table

create schema pipeline;

comment on schema pipeline is 'The ledger of loads, and the functions that the SQL files under sql/ call.';

create schema staging;

comment on schema staging is
'What the files must look like, and one table per load: its file as it was downloaded, before it is published.';

create schema partitions;

comment on schema partitions is 'Partitions of the tables in public; read them through those tables.';

grant usage on schema pipeline, staging to pipeline;

create table pipeline.sources (
    table_name text primary key,
    file_path text not null,
    key_column text,
    date_column text,
    amount_column text,
    group_column text,
    published_with text references pipeline.sources,
    derived_tables text[] not null default '{}',
    is_cumulative boolean not null default false,
    on_anomaly text check (on_anomaly in ('protect', 'ask', 'warn', 'ignore')),
    is_monthly boolean not null generated always as (file_path like '%YYYY-MM-01%') stored,
    place integer generated always as identity
);

comment on table pipeline.sources is
'The kinds of files, each with the table that it fills. The migration that creates the table inserts the row.';
comment on column pipeline.sources.table_name is
'Table in public; the one of that name in staging states what a file must look like.';
comment on column pipeline.sources.file_path is 'Path of the file below SOURCE_BASE_URL.';
comment on column pipeline.sources.key_column is
'Column with a whole number that identifies a row or its client, to find it in the file; null if there is none.';
comment on column pipeline.sources.date_column is 'Column with the day of a row; for monthly files a day of the month.';
comment on column pipeline.sources.amount_column is 'Column whose sum is compared; null: only rows are counted.';
comment on column pipeline.sources.group_column is
'Column with a whole number by which a month is summed up: a store of stores.';
comment on column pipeline.sources.published_with is
'Source whose request decides which run is published, for files that belong together: sources.table_name.';
comment on column pipeline.sources.derived_tables is
'Tables in public that are built from it, and from those that are published with it.';
comment on column pipeline.sources.is_cumulative is
'Whether a load adds and changes rows and never deletes any; then an older file may still add rows.';
comment on column pipeline.sources.on_anomaly is
'What happens if a file is unusual, instead of the setting ON_ANOMALY; null: as the setting says.';
comment on column pipeline.sources.is_monthly is 'Whether there is one file per month.';
comment on column pipeline.sources.place is 'Order in which the tables are listed.';

create table pipeline.optional_columns (
    table_name text references pipeline.sources,
    column_name text,
    required_from date not null,
    primary key (table_name, column_name)
);

comment on table pipeline.optional_columns is
'Columns that were added to a monthly file. The migration that adds the column inserts the row.';
comment on column pipeline.optional_columns.table_name is 'Its source: sources.table_name.';
comment on column pipeline.optional_columns.column_name is 'The column.';
comment on column pipeline.optional_columns.required_from is
'First month whose file must have it. Earlier files load without it, as nulls.';

create table pipeline.files (
    file_id bigint generated always as identity primary key,
    table_name text not null references pipeline.sources,
    file_month date check (extract(day from file_month) = 1),
    compared_at timestamptz,
    difference text,
    unique nulls not distinct (table_name, file_month)
);

comment on table pipeline.files is
'Every file that was ever loaded or attempted. Who locks its row for no key update decides which load is published.';
comment on column pipeline.files.file_id is 'The file.';
comment on column pipeline.files.table_name is 'Its source: sources.table_name.';
comment on column pipeline.files.file_month is 'First day of its month; null for a source with one file.';
comment on column pipeline.files.compared_at is
'When the maintenance last compared the rows in public with the published load; null since a newer publication.';
comment on column pipeline.files.difference is 'What it found changed; null if nothing.';

-- What the functions know of a file and of its rows in the table.
create view pipeline.file_rows as
select
    sources.*,
    files.file_id,
    files.file_month,
    coalesce(
        format(
            '%1$I >= %2$L and %1$I < ' || quote_literal((files.file_month + interval '1 month')::date),
            sources.date_column, files.file_month
        ), 'true'
    ) as condition
from pipeline.files
inner join pipeline.sources
    on files.table_name = sources.table_name;

comment on view pipeline.file_rows is 'Every file with its source, and the condition that its rows fulfil.';

create sequence pipeline.request_numbers;

create table pipeline.loads (
    load_id bigint generated always as identity primary key,
    file_id bigint not null references pipeline.files,
    dag_id text not null,
    run_id text not null,
    source_url text not null,
    status text not null default 'loading' check (
        status in (
            'loading', 'waiting', 'not_in_source', 'staged', 'checked', 'pending_approval', 'published', 'superseded',
            'rejected', 'failed', 'retired'
        )
    ),
    error text,
    anomalies text,
    decided_by text,
    decided_at timestamptz,
    decide_until timestamptz,
    wait_until timestamptz,
    request_number bigint,
    compared_with bigint,
    started_at timestamptz not null default clock_timestamp(),
    requested_at timestamptz,
    published_at timestamptz,
    updated_at timestamptz not null default clock_timestamp(),
    etag text,
    last_modified timestamptz,
    bytes bigint,
    sha256 text,
    row_count bigint,
    max_date date,
    total numeric,
    staged_table text not null
);

create table pipeline.group_totals (
    load_id bigint references pipeline.loads on delete cascade,
    group_key bigint,
    row_count bigint not null,
    min_key bigint,
    total numeric,
    primary key (load_id, group_key)
);

comment on table pipeline.group_totals is
'What each load holds by group, for sources that have one; kept until a newer load of the file is published.';
comment on column pipeline.group_totals.load_id is 'The load: loads.load_id.';
comment on column pipeline.group_totals.group_key is 'Value of sources.group_column.';
comment on column pipeline.group_totals.row_count is 'Number of rows.';
comment on column pipeline.group_totals.min_key is 'Smallest sources.key_column of the rows, to find them in the file.';
comment on column pipeline.group_totals.total is 'Exact sum of sources.amount_column.';

create unique index loads_published on pipeline.loads (file_id)
where status = 'published';

create index loads_of_file on pipeline.loads (file_id);

comment on table pipeline.loads is 'Every attempt to load a file.';
comment on column pipeline.loads.load_id is 'The load, as its run passes it from step to step.';
comment on column pipeline.loads.file_id is 'The file: files.file_id.';
comment on column pipeline.loads.dag_id is 'DAG that loads the file.';
comment on column pipeline.loads.run_id is 'Its run.';
comment on column pipeline.loads.source_url is 'Where the file was read, without credentials.';
comment on column pipeline.loads.status is 'State of the load; see the life of a load in 0104_ledger.sql.';
comment on column pipeline.loads.error is 'Why the load is waiting, not in the source, rejected or failed.';
comment on column pipeline.loads.anomalies is
'What is unusual about the file, compared with those that were loaded before; null if nothing is.';
comment on column pipeline.loads.decided_by is
'Who published or rejected the unusual file: a person, or the setting by which nobody was asked.';
comment on column pipeline.loads.decided_at is 'When.';
comment on column pipeline.loads.decide_until is 'Until when a person may decide; the load is failed after that.';
comment on column pipeline.loads.wait_until is 'Until when a late file is waited for; null unless it is waiting.';
comment on column pipeline.loads.request_number is
'Number of the request, drawn while the file is locked: of two loads of a file, the one with the greater number is
published. Files that are published together have one number.';
comment on column pipeline.loads.compared_with is
'Load that was published when this one was compared, 0 if none was; null if it may replace any.';
comment on column pipeline.loads.started_at is 'When the attempt began.';
comment on column pipeline.loads.requested_at is 'When the file was requested.';
comment on column pipeline.loads.published_at is 'When the rows were published; stays when they are superseded.';
comment on column pipeline.loads.updated_at is 'When the load came to its present status.';
comment on column pipeline.loads.etag is 'ETag that the server sent.';
comment on column pipeline.loads.last_modified is 'Last-Modified that the server sent.';
comment on column pipeline.loads.bytes is 'Length of the CSV text.';
comment on column pipeline.loads.sha256 is 'SHA-256 of the CSV text: the version of the file.';
comment on column pipeline.loads.row_count is 'Rows in the file, its header not counted.';
comment on column pipeline.loads.max_date is 'Latest day in the file; null where it has no days.';
comment on column pipeline.loads.total is 'Sum of sources.amount_column over the file; null where there is none.';
comment on column pipeline.loads.staged_table is 'Table that holds the rows until they are published.';

grant select on pipeline.sources, pipeline.optional_columns, pipeline.file_rows to pipeline;

grant select, insert, delete on pipeline.group_totals to pipeline;

grant select, update (compared_at, difference) on pipeline.files to pipeline;

grant usage on sequence pipeline.request_numbers to pipeline;

-- begin_load inserts the rows, with its owner's rights.
grant
select,
update (
    status, error, anomalies, decided_by, decided_at, decide_until, wait_until, request_number, compared_with,
    requested_at, published_at, updated_at, etag, last_modified, bytes, sha256, row_count, max_date, total
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

create function pipeline.notice(message text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise notice using message = message;
end
$$;

comment on function pipeline.notice(text) is 'Writes this message to the log of the task.';

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

-- $1 is the load.
create function pipeline.is_running(load bigint)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
return pg_is_in_recovery() or exists (
    select
    from pg_stat_activity
    where
        datname = current_database()
        and application_name = 'load ' || $1
        and pg_has_role(usesysid, 'pipeline', 'member')
);

comment on function pipeline.is_running(bigint) is
'Whether the session that stages this load is connected: begin_load names the session after the load. Anybody can name
a session, so only those of the pipeline count. A standby does not see the sessions of its primary.';

create function pipeline.drop_staged(load bigint)
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
        null; -- A session reads the table, or has a view of it. The next load tries again.
end
$$;

comment on function pipeline.drop_staged(bigint) is
'Drops the staged table of a load, unless a session uses it; clean_up drops what was left.';

create function pipeline.clean_up(file bigint default null)
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    -- A load that a session has locked is being checked, decided on or published at this moment.
    with dead as (
        select
            load_id,
            case
                when status = 'loading' then 'The process that loaded the file was killed.'
                when status = 'pending_approval' then concat('Nobody decided until ', decide_until, '.')
                else 'The run did not publish the rows in 30 days.'
            end as reason
        from pipeline.loads
        where
            ($1 is null or file_id = $1)
            and (
                (status = 'loading' and not pipeline.is_running(load_id))
                or (status = 'pending_approval' and decide_until < now())
                or (status in ('staged', 'checked') and updated_at < now() - interval '30 days')
            )
        for no key update skip locked
    )

    update pipeline.loads
    set
        status = 'failed',
        error = dead.reason || ' Clear the run to load the file again.',
        updated_at = clock_timestamp()
    from dead
    where loads.load_id = dead.load_id;

    select pipeline.drop_staged(loads.load_id)
    from pg_class
    inner join pipeline.loads
        on format('staging.%I', pg_class.relname) = loads.staged_table
    inner join pipeline.file_rows
        on loads.file_id = file_rows.file_id
    where
        pg_class.relnamespace = 'staging'::regnamespace
        and (
            loads.status = 'failed'
            -- Nothing is deleted from a cumulative table, so its published rows can be compared with it.
            or (loads.status = 'published' and not file_rows.is_cumulative)
            or (
                loads.status = 'rejected'
                and exists (
                    select
                    from pipeline.loads as later
                    where later.file_id = loads.file_id and later.load_id > loads.load_id
                )
            )
            -- A month is published with the stores that it was checked with.
            or (
                loads.status = 'superseded'
                and not exists (
                    select
                    from pipeline.loads as of_run
                    where
                        file_rows.is_cumulative
                        and of_run.dag_id = loads.dag_id
                        and of_run.run_id = loads.run_id
                        and of_run.status in ('loading', 'waiting', 'staged', 'checked', 'pending_approval')
                )
            )
        );
end;

comment on function pipeline.clean_up(bigint) is
'Fails the loads that no run continues, of one file or of all: killed, not decided on in time, or forgotten. Then
drops the staged tables that nobody needs any more. The rows of a rejected load stay until the file is loaded again, and
those of a cumulative source while they are the published ones.';

create function pipeline.begin_load(table_name text, file_month date, source_url text, dag_id text, run_id text)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
as $$
declare
    this_file bigint;
    this_load constant bigint := nextval(pg_get_serial_sequence('pipeline.loads', 'load_id'));
    next_month constant date := file_month + interval '1 month';
    partition_name constant text := begin_load.table_name || to_char(file_month, '_YYYY_MM');
begin
    -- A table of others would bring what is on it, such as the function of an index, into the owner's rights.
    if not exists (
        select from pipeline.sources
        where sources.table_name = begin_load.table_name and sources.is_monthly = (file_month is not null)
    ) then
        -- Not as a rule that is broken: the task tries again, because the migration may follow the workflow.
        raise exception using errcode = '55PL3', message = format(
            'pipeline.sources has no source "%s" %s, so no file of it is loaded. A migration adds it.',
            begin_load.table_name, case when file_month is null then 'with one file' else 'with a file per month' end
        );
    end if;

    insert into pipeline.files (table_name, file_month)
    values (begin_load.table_name, begin_load.file_month)
    on conflict do nothing;
    select file_id into this_file
    from pipeline.files
    where files.table_name = begin_load.table_name and files.file_month is not distinct from begin_load.file_month
    for no key update;

    -- A run that begins again does not publish what it staged before.
    update pipeline.loads
    set status = 'superseded', updated_at = clock_timestamp()
    where
        loads.file_id = this_file
        and loads.dag_id = begin_load.dag_id
        and loads.run_id = begin_load.run_id
        and loads.status in ('staged', 'checked', 'pending_approval');
    insert into pipeline.loads (load_id, file_id, dag_id, run_id, source_url, staged_table)
    overriding system value
    values (
        this_load, this_file, begin_load.dag_id, begin_load.run_id, begin_load.source_url,
        format('staging.%I', begin_load.table_name || '_' || this_load)
    );
    perform set_config('application_name', 'load ' || this_load, false);
    perform pipeline.clean_up(this_file);

    -- Created and then attached, which lets readers pass; CREATE TABLE ... PARTITION OF would not.
    if file_month is not null and not exists (
        select
        from pg_inherits
        inner join pg_class
            on pg_inherits.inhrelid = pg_class.oid
        where
            pg_inherits.inhparent = format('public.%I', begin_load.table_name)::regclass
            and pg_get_expr(pg_class.relpartbound, pg_class.oid)
            = format('FOR VALUES FROM (%L) TO (%L)', file_month, next_month)
    ) then
        if to_regclass(format('partitions.%I', partition_name)) is not null then
            perform pipeline.reject(format(
                '%1$s: partitions.%2$I is not a partition of public.%3$I, so the month was not loaded: taking it out was'
                ' interrupted. Drop the table or move it to another schema: docs/operations.md, "Take an old month out".'
                ' Then clear this run.', begin_load.source_url, partition_name, begin_load.table_name
            ));
        end if;
        execute format(
            'create table partitions.%I (like public.%I including all) with (vacuum_truncate = off)',
            partition_name, begin_load.table_name
        );
        -- A publication of all tables would otherwise stop the deletes.
        execute format('alter table partitions.%I replica identity full', partition_name);
        execute format(
            'alter table public.%I attach partition partitions.%I for values from (%L) to (%L)',
            begin_load.table_name, partition_name, file_month, next_month
        );
        execute format('grant maintain on partitions.%I to pipeline', partition_name);
    end if;

    return this_load;
end
$$;

comment on function pipeline.begin_load(text, date, text, text, text) is
'Records that an attempt begins, adds the partition of its month, and removes what earlier attempts left.';

create function pipeline.request_file(load bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from pipeline.files
    where file_id = (select file_id from pipeline.loads where load_id = load)
    for no key update;
    update pipeline.loads
    set request_number = nextval('pipeline.request_numbers'), requested_at = clock_timestamp()
    where load_id = load;
end
$$;

comment on function pipeline.request_file(bigint) is
'Locks the file and numbers the request. The transaction ends when the server has begun to answer, so that a later
request never gets an older file.';

create function pipeline.create_staged(load bigint)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    file constant pipeline.file_rows := (select file_rows from pipeline.file_rows where file_id = this.file_id);
begin
    execute format(
        'create table %s (like staging.%I including all%s)', this.staged_table, file.table_name,
        case
            when file.is_monthly
                then format(', constraint "the date is in the month of the file" check (%s)', file.condition)
        end
    );
    execute format('grant select, insert, maintain on %s to pipeline', this.staged_table);
    return this.staged_table;
end
$$;

comment on function pipeline.create_staged(bigint) is
'Creates the table that the file of a load is copied into, in the transaction of the COPY: like the one of its source in
staging, and for a month with a constraint on its days.';

create function pipeline.stage_load(
    load bigint, etag text, last_modified timestamptz, bytes bigint, sha256 text, row_count bigint
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
-- A small sample is enough for the next steps.
set default_statistics_target = 10
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    file constant pipeline.file_rows := (select file_rows from pipeline.file_rows where file_id = this.file_id);
begin
    execute 'analyze ' || this.staged_table;
    -- The only pass over the rows. PostgreSQL reads in parallel for CREATE TABLE AS, and not for INSERT.
    execute format(
        'create temporary table summed on commit drop as select %s::bigint as group_key, count(*) as row_count,'
        ' min(%s)::bigint as min_key, max(%s)::date as max_date, sum(%s::numeric) as total from %s group by 1',
        coalesce(quote_ident(file.group_column), 'null'), coalesce(quote_ident(file.key_column), 'null'),
        coalesce(quote_ident(file.date_column), 'null'), coalesce(quote_ident(file.amount_column), 'null'),
        this.staged_table
    );
    insert into pipeline.group_totals (load_id, group_key, row_count, min_key, total)
    select load, group_key, summed.row_count, min_key, summed.total
    from summed
    where group_key is not null;
    perform from pipeline.files where file_id = this.file_id for no key update;
    update pipeline.loads
    set
        status = case
            -- Files that are published together have their number when they are checked.
            when exists (
                select
                from pipeline.loads as later
                where
                    later.file_id = this.file_id
                    and later.status = 'published'
                    and later.request_number > this.request_number
                    and file.published_with is null
            ) then 'superseded'
            else 'staged'
        end,
        etag = stage_load.etag,
        last_modified = stage_load.last_modified,
        bytes = stage_load.bytes,
        sha256 = stage_load.sha256,
        row_count = stage_load.row_count,
        max_date = (select max(summed.max_date) from summed),
        total = (select case when file.amount_column is not null then coalesce(sum(summed.total), 0) end from summed),
        updated_at = clock_timestamp()
    where load_id = load and status = 'loading';
    if not found then
        raise exception 'Load % is not loading any more, so it is not staged. Clear this run.', load;
    end if;
    drop table summed;
end
$$;

comment on function pipeline.stage_load(bigint, text, timestamptz, bigint, text, bigint) is
'Records, in the transaction of the COPY, that all rows of the file are staged, and their sums.';

create function pipeline.stop_load(load bigint, status text, error text, wait_until timestamptz default null)
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update pipeline.loads
    set
        status = stop_load.status,
        error = stop_load.error,
        wait_until = stop_load.wait_until,
        updated_at = clock_timestamp()
    where load_id = load and loads.status = 'loading';
end;

comment on function pipeline.stop_load(bigint, text, text, timestamptz) is
'Records why an attempt staged nothing: waiting, not_in_source, rejected or failed.';

create function pipeline.check_load(load bigint, error text, decided_by_load bigint default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    number constant bigint := coalesce(
        (select request_number from pipeline.loads where load_id = decided_by_load), this.request_number
    );
begin
    update pipeline.loads
    set
        status = case
            when status = 'superseded' then status
            when check_load.error is not null then 'rejected'
            when exists (
                select
                from pipeline.loads as later
                where later.file_id = this.file_id and later.status = 'published' and later.request_number > number
            ) then 'superseded'
            else 'checked'
        end,
        error = check_load.error || ' (the rows are in ' || staged_table || ' until the file is loaded again)',
        anomalies = null,
        decided_by = null,
        decided_at = null,
        decide_until = null,
        request_number = number,
        updated_at = clock_timestamp()
    where
        load_id = load
        and (
            status in ('staged', 'checked', 'pending_approval', 'superseded')
            or (status = 'rejected' and decided_by is null)
        );
end
$$;

comment on function pipeline.check_load(bigint, text, bigint) is
'Records the verdict of a check: without an error the load is checked, with one it is rejected. A load that is published
with another takes the number of its request.';

create function pipeline.require_checked(variadic load_ids bigint[])
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    select
        pipeline.reject(concat(
            string_agg(concat(source_url, ': ', error), '; ' order by source_url),
            '. Nothing was published, and the tables stay as they were. When the file is corrected, clear this run.'
        ))
    from pipeline.loads
    where load_id = any(load_ids) and status in ('rejected', 'superseded') and error is not null
    having count(*) > 0;
end;

comment on function pipeline.require_checked(bigint[]) is
'Fails with all verdicts at once if one of the loads is rejected.';

create function pipeline.request_approval(load bigint, decide_until timestamptz)
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update pipeline.loads
    set
        status = 'pending_approval',
        decide_until = request_approval.decide_until,
        updated_at = clock_timestamp()
    where load_id = load and status in ('checked', 'pending_approval');
end;

comment on function pipeline.request_approval(bigint, timestamptz) is
'Holds a checked load back until decide_load is called, or until that moment.';

create function pipeline.decide_load(load bigint, is_approved boolean, decided_by text)
returns text
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update pipeline.loads
    set
        status = case
            when status <> 'pending_approval' then status
            when is_approved is null or decide_until < now() then 'failed'
            when is_approved then 'checked'
            else 'rejected'
        end,
        error = case
            when status <> 'pending_approval' then error
            when is_approved is null or decide_until < now()
                then concat(
                    'Nobody decided until ', least(decide_until, now()), '. Clear the run to load the file again.'
                )
            when not is_approved then concat(
                'Rejected by ', decide_load.decided_by, ': ', anomalies,
                '. It stays rejected; to stage the file again, clear the whole run.'
            )
        end,
        decided_by = decide_load.decided_by,
        decided_at = clock_timestamp(),
        updated_at = case when status = 'superseded' then updated_at else clock_timestamp() end
    where
        load_id = load
        and (status in ('pending_approval', 'superseded') or (status = 'checked' and is_approved))
    returning status;
end;

comment on function pipeline.decide_load(bigint, boolean, text) is
'Records who decided on an unusual load, and returns its status: checked if it may be published, rejected, or failed if
the answer came too late or, with null, if there was none. A load that is superseded meanwhile stays so.';

create function pipeline.publish_load(load bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this pipeline.loads;
    previous pipeline.loads;
    source pipeline.file_rows;
    is_late boolean;
begin
    perform from pipeline.files
    where file_id = (select file_id from pipeline.loads where load_id = load)
    for no key update;
    select * into this from pipeline.loads where load_id = load;
    select * into previous from pipeline.loads where file_id = this.file_id and status in ('published', 'retired');
    select * into source from pipeline.file_rows where file_id = this.file_id;

    is_late := previous.request_number > this.request_number and this.status = 'checked';

    if source.is_cumulative and this.error is null and (is_late or this.status in ('published', 'superseded')) then
        return; -- An older file still adds its rows.
    elsif this.status = 'published' then
        raise exception using errcode = 'PL002', message = format(
            '%s: load %s is published already, so nothing is changed.', this.source_url, load
        );
    elsif is_late or (this.status = 'superseded' and not source.is_cumulative) then
        raise exception using errcode = 'PL001', message = concat(
            this.source_url, ': load ', load, ' is superseded', ' by load '
            || case when previous.request_number > this.request_number then previous.load_id end
            || ', which requested the file later', ', so nothing is changed.'
        );
    elsif this.status is distinct from 'checked' then
        perform pipeline.reject(concat(
            'Load ', load, ' of ' || this.source_url, ' is ', coalesce(this.status, 'not in pipeline.loads'),
            ': ' || this.error, '. Only a checked load can be published, and the tables stay as they were. Clear the',
            ' whole run.'
        ));
    elsif
        this.compared_with <> (case when previous.status = 'published' then previous.load_id else 0 end)
        and previous.sha256 <> this.sha256
    then
        perform pipeline.reject(format(
            '%s: load %s was published after load %s had been compared, so it is not known what would change. Nothing'
            ' was published. Clear the whole run.', this.source_url, previous.load_id, load
        ));
    end if;

    update pipeline.loads
    set status = 'superseded', updated_at = clock_timestamp()
    where
        file_id = this.file_id
        and request_number < this.request_number
        and (
            status in ('checked', 'pending_approval', 'published', 'retired')
            or (status = 'staged' and source.published_with is null)
        );
    update pipeline.loads
    set status = 'published', published_at = clock_timestamp(), updated_at = clock_timestamp()
    where load_id = load;
    update pipeline.files
    set compared_at = null, difference = null
    where file_id = this.file_id;
    delete from pipeline.group_totals
    using pipeline.loads
    where group_totals.load_id = loads.load_id and loads.file_id = this.file_id and loads.status = 'superseded';

    if previous.sha256 <> this.sha256 then
        perform pipeline.notice(concat(
            this.source_url, ' has changed since load ', previous.load_id, ': rows ', previous.row_count, ' -> ',
            this.row_count, ', total ' || previous.total || ' -> ' || this.total,
            ', SHA-256 ', previous.sha256, ' -> ', this.sha256
        ));
    end if;
end
$$;

comment on function pipeline.publish_load(bigint) is
'Locks the file until the transaction ends, and makes a checked load the published one. An error with SQLSTATE PL001
says that a later request is published, and PL002 that the load is published already; a load of a cumulative source
raises neither.';

create function pipeline.open_staged(load bigint, view_name text, sample_rows integer default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    source constant pipeline.file_rows := (select file_rows from pipeline.file_rows where file_id = this.file_id);
    differing text;
begin
    if this.status = 'rejected' and this.decided_by is not null then
        perform pipeline.reject(concat(this.source_url, ': load ', load, ': ', this.error));
    elsif
        this.status = 'superseded'
        and (
            not source.is_cumulative
            -- The rows are gone, because nothing of the run can be published any more.
            or (to_regclass(this.staged_table) is null and not exists (
                select
                from pipeline.loads as of_run
                where
                    of_run.dag_id = this.dag_id
                    and of_run.run_id = this.run_id
                    and of_run.file_id <> this.file_id
                    and of_run.status in ('staged', 'checked', 'pending_approval', 'rejected')
            ))
        )
    then
        raise exception using errcode = 'PL001', message = format(
            '%s: load %s is superseded, so there is nothing to do.', this.source_url, load
        );
    elsif to_regclass(this.staged_table) is null then
        perform pipeline.reject(concat(
            'Load ', load, ' of ' || this.source_url, ' is ', coalesce(this.status, 'not in pipeline.loads'),
            ': ' || this.error, '. It has no staged rows, and the tables stay as they were. Clear the whole run.'
        ));
    end if;

    select string_agg(format('%s (%s)', table_id::regclass, definitions), ', ' order by table_id) into differing
    from (
        select attrelid as table_id, string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum)
        from pg_attribute
        where
            attrelid in (
                this.staged_table::regclass, format('staging.%I', source.table_name)::regclass,
                format('public.%I', source.table_name)::regclass
            )
            and attnum > 0
            and not attisdropped
        group by attrelid
    ) as tables (table_id, definitions)
    having count(distinct definitions) > 1;
    if differing is not null then
        perform pipeline.reject(format(
            '%s: since it was staged, a migration has changed the columns, so it is not published: %s. Clear the'
            ' whole run.', this.source_url, differing
        ));
    end if;

    execute format(
        'create or replace temporary view %I as select * from %s', view_name, this.staged_table
    ) || case
        when sample_rows < this.row_count
            then format(' tablesample system (%s) repeatable (0)', 100.0 * sample_rows / this.row_count)
        else ''
    end;
end
$$;

comment on function pipeline.open_staged(bigint, text, integer) is
'Gives the staged rows of a load, or a sample of about so many, a name: a temporary view, which the file that calls it
drops. A load whose columns differ from those that its source has in staging and in public now is rejected, and so is
one that a person has rejected. SQLSTATE PL001 says that the load is superseded.';

create function pipeline.verify_load(load bigint, table_name text, row_count numeric, total numeric default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    problem text;
begin
    -- The last triggers fire here, and may change what was counted before.
    set constraints all immediate;
    if
        verify_load.row_count <> this.row_count
        or coalesce(verify_load.total, 0) <> coalesce(this.total, 0)
    then
        problem := concat(
            verify_load.table_name, ' has ',
            coalesce(nullif(concat_ws(', ', verify_load.row_count || ' rows', 'total ' || verify_load.total), ''), 'no rows'),
            ' after publishing, and the load that was checked has ',
            concat_ws(', ', this.row_count || ' rows', 'total ' || this.total), '.'
        );
    elsif exists (
        select
        from pipeline.sources
        cross join lateral unnest(sources.table_name || sources.derived_tables) as filled
        inner join pg_trigger
            on tgrelid = format('public.%I', filled)::regclass
        where not tgisinternal
    ) then
        problem := pipeline.compare_load(load);
    end if;
    if problem is not null then
        perform pipeline.reject(concat(
            this.source_url, ': ', problem, ' Nothing was published. A trigger or a policy on the table changes or hides'
            ' rows: pg_trigger and pg_policy show them. When it is corrected, clear this run.'
        ));
    end if;
end
$$;

comment on function pipeline.verify_load(bigint, text, numeric, numeric) is
'Compares what stands in a table with what was checked, and fails the publication if rows or total differ. What a
table or a source does not have is null. Where a trigger may have changed it since it was counted, it is read again.';

create function pipeline.retire_load(load bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this pipeline.loads;
    file pipeline.file_rows;
    has_rows boolean;
begin
    perform from pipeline.files
    where file_id = (select file_id from pipeline.loads where load_id = load)
    for no key update;
    select * into this from pipeline.loads where load_id = load;
    select * into file from pipeline.file_rows where file_id = this.file_id;
    if this.status is distinct from 'published' or not file.is_monthly then
        perform pipeline.reject(format(
            'Load %s is not the published load of a month, so it was not retired. pipeline.loads lists them.', load
        ));
    end if;
    execute format('select exists (select %I from public.%I where %s)', file.date_column, file.table_name, file.condition) into has_rows;
    if has_rows then
        perform pipeline.reject(format(
            'public.%I still has the rows of %s, so load %s was not retired. Detach their partition first:'
            ' docs/operations.md, "Take an old month out".', file.table_name, file.file_month, load
        ));
    end if;
    update pipeline.loads set status = 'retired', updated_at = clock_timestamp() where load_id = load;
end
$$;

comment on function pipeline.retire_load(bigint) is
'Records that the rows of a published month were taken out of the table, so that nothing expects them there. Loading the
month again brings it back.';

create function pipeline.reject_foreign_keys(table_id regclass)
returns void
language sql
set search_path = pg_catalog, pg_temp
return (
    select
        pipeline.reject(concat(
            table_id, ': ',
            string_agg(concat('the foreign key ', conname, ' of ', conrelid::regclass), ', ' order by conname),
            ' refers to rows that a load deletes and inserts, so nothing was changed. Drop it, or let it refer to a',
            ' table whose rows stay; then clear this run.'
        ))
    from pg_constraint
    where confrelid = table_id
    having count(*) > 0
);

comment on function pipeline.reject_foreign_keys(regclass) is
'Fails if a foreign key refers to this table: it would lose its rows when they are deleted and inserted.';

create function pipeline.prepare_source(name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    source constant pipeline.sources := (select sources from pipeline.sources where table_name = name);
    filled text;
begin
    foreach filled in array name || source.derived_tables loop
        execute format(
            'grant select, insert, %s on public.%I to pipeline',
            case when source.is_cumulative then 'update' else 'delete' end, filled
        );
    end loop;
    execute format('grant select on staging.%I to pipeline', name); -- to make one like it
    -- A publication of all tables would otherwise stop deletes from tables without a key.
    if source.is_monthly then
        -- No row is this old. While the table has a partition on which mle_user has no privileges, mle_user cannot
        -- create a row trigger on it, which would slow a load down by as many calls as there are rows.
        execute format(
            'create table partitions.%1$I partition of public.%2$I for values from (minvalue) to (''0001-01-01'');'
            'alter table partitions.%1$I replica identity full;'
            'grant maintain on public.%2$I, partitions.%1$I to pipeline', name || '_before_all_months', name
        );
    elsif not source.is_cumulative then
        execute format('alter table public.%I replica identity full', name);
    end if;
end
$$;

comment on function pipeline.prepare_source(text) is
'Lets the pipeline write the tables of a source: for the migration that adds it.';

create function pipeline.forget_source(name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    staged text;
begin
    for staged in
        select staged_table from pipeline.loads inner join pipeline.file_rows using (file_id) where table_name = name
    loop
        if to_regclass(staged) is not null then
            execute 'drop table ' || staged || ' cascade';
        end if;
    end loop;
    delete from pipeline.loads using pipeline.files where loads.file_id = files.file_id and files.table_name = name;
    delete from pipeline.files where table_name = name;
    delete from pipeline.optional_columns where table_name = name;
    delete from pipeline.sources where table_name = name;
end
$$;

comment on function pipeline.forget_source(text) is
'Removes all that the ledger has of a source: for the downgrade of the migration that added it.';

-- Functions with their owner's rights are for the pipeline alone.
revoke execute on function
pipeline.begin_load(text, date, text, text, text),
pipeline.create_staged(bigint),
pipeline.drop_staged(bigint)
from public;

grant execute on function
pipeline.begin_load(text, date, text, text, text),
pipeline.create_staged(bigint),
pipeline.drop_staged(bigint)
to pipeline;

-- Undo

drop schema partitions cascade;

drop schema staging cascade;

drop schema pipeline cascade;
