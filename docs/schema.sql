-- What `alembic upgrade head` creates, as pg_dump of PostgreSQL 18 writes it. `make docs` renews this file: read its
-- diff, do not edit it.

CREATE ROLE ds_user;
ALTER ROLE ds_user WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 20;
CREATE ROLE ds_user_role;
ALTER ROLE ds_user_role WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE mle_user;
ALTER ROLE mle_user WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 20;
CREATE ROLE mle_user_role;
ALTER ROLE mle_user_role WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE pipeline;
ALTER ROLE pipeline WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE pipeline_owner;
ALTER ROLE pipeline_owner WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
ALTER ROLE ds_user SET idle_in_transaction_session_timeout TO '1h';
ALTER ROLE ds_user SET temp_file_limit TO '2GB';
ALTER ROLE ds_user SET log_min_messages TO 'fatal';
ALTER ROLE mle_user SET idle_in_transaction_session_timeout TO '1h';
ALTER ROLE mle_user SET temp_file_limit TO '2GB';
ALTER ROLE pipeline SET search_path TO 'pg_catalog', 'pg_temp';
ALTER ROLE pipeline SET row_security TO 'off';
ALTER ROLE pipeline SET "DateStyle" TO 'ISO, YMD';
ALTER ROLE pipeline SET statement_timeout TO '30min';
ALTER ROLE pipeline SET lock_timeout TO '2min';
ALTER ROLE pipeline SET idle_in_transaction_session_timeout TO '5min';
ALTER ROLE pipeline SET client_connection_check_interval TO '5s';
GRANT ds_user_role TO ds_user WITH INHERIT TRUE GRANTED BY admin;
GRANT mle_user_role TO mle_user WITH INHERIT TRUE GRANTED BY admin;
GRANT pg_use_reserved_connections TO pipeline WITH INHERIT TRUE GRANTED BY admin;
GRANT pipeline TO pipeline_owner WITH INHERIT TRUE GRANTED BY admin;

CREATE SCHEMA partitions;

COMMENT ON SCHEMA partitions IS 'Partitions of the tables in public; read them through those tables.';

CREATE SCHEMA pipeline;

COMMENT ON SCHEMA pipeline IS 'The ledger of loads, and the functions that the SQL files under sql/ call.';

CREATE SCHEMA staging;

COMMENT ON SCHEMA staging IS 'What the files must look like, and one table per load: its file as it was downloaded, before it is published.';

CREATE FUNCTION pipeline.analyze_sales() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    -- Each load has analyzed its own rows. PostgreSQL 17 reads all partitions again.
    execute 'analyze '
    || case when current_setting('server_version_num')::integer >= 180000 then 'only ' else '' end
    || 'public.sales';
end
$$;

COMMENT ON FUNCTION pipeline.analyze_sales() IS 'Renews the statistics of all months of sales together.';

CREATE FUNCTION pipeline.begin_load(table_name text, file_month date, source_url text, dag_id text, run_id text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "DateStyle" TO 'ISO, YMD'
    AS $$
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
        perform pipeline.reject(format(
            'pipeline.sources has no source "%s" %s, so no file of it is loaded. A migration adds it.',
            begin_load.table_name, case when file_month is null then 'with one file' else 'with a file per month' end
        ));
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

COMMENT ON FUNCTION pipeline.begin_load(table_name text, file_month date, source_url text, dag_id text, run_id text) IS 'Records that an attempt begins, adds the partition of its month, and removes what earlier attempts left.';

CREATE FUNCTION pipeline.check_load(load bigint, error text, max_date date DEFAULT NULL::date, total numeric DEFAULT NULL::numeric, decided_by_load bigint DEFAULT NULL::bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
        max_date = check_load.max_date,
        total = check_load.total,
        updated_at = clock_timestamp()
    where
        load_id = load
        and (
            status in ('staged', 'checked', 'pending_approval', 'superseded')
            or (status = 'rejected' and decided_by is null)
        );
end
$$;

COMMENT ON FUNCTION pipeline.check_load(load bigint, error text, max_date date, total numeric, decided_by_load bigint) IS 'Records the verdict of a check: without an error the load is checked, with one it is rejected. A load that is published
with another takes the number of its request.';

CREATE FUNCTION pipeline.drop_staged(load bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '300ms'
    AS $$
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

COMMENT ON FUNCTION pipeline.drop_staged(load bigint) IS 'Drops the staged table of a load, unless a session uses it; clean_up drops what was left.';

CREATE FUNCTION pipeline.is_running(load bigint) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    RETURN (EXISTS (SELECT FROM pg_stat_activity WHERE ((pg_stat_activity.datname = current_database()) AND (pg_stat_activity.application_name = ('load '::text || is_running.load)) AND pg_has_role(pg_stat_activity.usesysid, 'pipeline'::name, 'member'::text))));

COMMENT ON FUNCTION pipeline.is_running(load bigint) IS 'Whether the session that stages this load is connected: begin_load names the session after the load. Anybody can name
a session, so only those of the pipeline count.';

CREATE TABLE pipeline.files (
    file_id bigint NOT NULL,
    table_name text NOT NULL,
    file_month date,
    compared_at timestamp with time zone,
    difference text,
    CONSTRAINT files_file_month_check CHECK ((EXTRACT(day FROM file_month) = (1)::numeric))
);

COMMENT ON TABLE pipeline.files IS 'Every file that was ever loaded or attempted. Who locks its row for no key update decides which load is published.';

COMMENT ON COLUMN pipeline.files.file_id IS 'The file.';

COMMENT ON COLUMN pipeline.files.table_name IS 'Its source: sources.table_name.';

COMMENT ON COLUMN pipeline.files.file_month IS 'First day of its month; null for a source with one file.';

COMMENT ON COLUMN pipeline.files.compared_at IS 'When the maintenance last compared the rows in public with the published load; null since a newer publication.';

COMMENT ON COLUMN pipeline.files.difference IS 'What it found changed; null if nothing.';

CREATE TABLE pipeline.loads (
    load_id bigint NOT NULL,
    file_id bigint NOT NULL,
    dag_id text NOT NULL,
    run_id text NOT NULL,
    source_url text NOT NULL,
    status text DEFAULT 'loading'::text NOT NULL,
    error text,
    anomalies text,
    decided_by text,
    decided_at timestamp with time zone,
    decide_until timestamp with time zone,
    wait_until timestamp with time zone,
    request_number bigint,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    requested_at timestamp with time zone,
    published_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    etag text,
    last_modified timestamp with time zone,
    bytes bigint,
    sha256 text,
    row_count bigint,
    max_date date,
    total numeric,
    staged_table text NOT NULL,
    CONSTRAINT loads_status_check CHECK ((status = ANY (ARRAY['loading'::text, 'waiting'::text, 'staged'::text, 'checked'::text, 'pending_approval'::text, 'published'::text, 'superseded'::text, 'rejected'::text, 'failed'::text, 'retired'::text])))
);

COMMENT ON TABLE pipeline.loads IS 'Every attempt to load a file.';

COMMENT ON COLUMN pipeline.loads.load_id IS 'The load, as its run passes it from step to step.';

COMMENT ON COLUMN pipeline.loads.file_id IS 'The file: files.file_id.';

COMMENT ON COLUMN pipeline.loads.dag_id IS 'DAG that loads the file.';

COMMENT ON COLUMN pipeline.loads.run_id IS 'Its run.';

COMMENT ON COLUMN pipeline.loads.source_url IS 'Where the file was read, without credentials.';

COMMENT ON COLUMN pipeline.loads.status IS 'State of the load; see the life of a load in 0104_ledger.sql.';

COMMENT ON COLUMN pipeline.loads.error IS 'Why the load is waiting, rejected or failed.';

COMMENT ON COLUMN pipeline.loads.anomalies IS 'What is unusual about the file, compared with those that were loaded before; null if nothing is.';

COMMENT ON COLUMN pipeline.loads.decided_by IS 'Who published or rejected the unusual file: a person, or the setting by which nobody was asked.';

COMMENT ON COLUMN pipeline.loads.decided_at IS 'When.';

COMMENT ON COLUMN pipeline.loads.decide_until IS 'Until when a person may decide; the load is failed after that.';

COMMENT ON COLUMN pipeline.loads.wait_until IS 'Until when a late file is waited for; null unless it is waiting.';

COMMENT ON COLUMN pipeline.loads.request_number IS 'Number of the request, drawn while the file is locked: of two loads of a file, the one with the greater number is
published. Files that are published together have one number.';

COMMENT ON COLUMN pipeline.loads.started_at IS 'When the attempt began.';

COMMENT ON COLUMN pipeline.loads.requested_at IS 'When the file was requested.';

COMMENT ON COLUMN pipeline.loads.published_at IS 'When the rows were published; stays when they are superseded.';

COMMENT ON COLUMN pipeline.loads.updated_at IS 'When the load came to its present status.';

COMMENT ON COLUMN pipeline.loads.etag IS 'ETag that the server sent.';

COMMENT ON COLUMN pipeline.loads.last_modified IS 'Last-Modified that the server sent.';

COMMENT ON COLUMN pipeline.loads.bytes IS 'Length of the CSV text.';

COMMENT ON COLUMN pipeline.loads.sha256 IS 'SHA-256 of the CSV text: the version of the file.';

COMMENT ON COLUMN pipeline.loads.row_count IS 'Rows in the file, its header not counted.';

COMMENT ON COLUMN pipeline.loads.max_date IS 'Latest day in the file; null where it has no days.';

COMMENT ON COLUMN pipeline.loads.total IS 'Sum of sources.amount_column over the file; null where there is none.';

COMMENT ON COLUMN pipeline.loads.staged_table IS 'Table that holds the rows until they are published.';

CREATE TABLE pipeline.sources (
    table_name text NOT NULL,
    file_path text NOT NULL,
    date_column text,
    amount_column text,
    group_column text,
    published_with text,
    is_cumulative boolean DEFAULT false NOT NULL,
    is_monthly boolean GENERATED ALWAYS AS ((file_path ~~ '%YYYY-MM-01%'::text)) STORED NOT NULL
);

COMMENT ON TABLE pipeline.sources IS 'The kinds of files, each with the table that it fills. The migration that creates the table inserts the row.';

COMMENT ON COLUMN pipeline.sources.table_name IS 'Table in public; the one of that name in staging states what a file must look like.';

COMMENT ON COLUMN pipeline.sources.file_path IS 'Path of the file below SOURCE_BASE_URL.';

COMMENT ON COLUMN pipeline.sources.date_column IS 'Column with the day of a row; for monthly files a day of the month.';

COMMENT ON COLUMN pipeline.sources.amount_column IS 'Column whose sum is compared; null: only rows are counted.';

COMMENT ON COLUMN pipeline.sources.group_column IS 'Column by which a month is summed up.';

COMMENT ON COLUMN pipeline.sources.published_with IS 'Source whose request decides which run is published, for files that belong together: sources.table_name.';

COMMENT ON COLUMN pipeline.sources.is_cumulative IS 'Whether a load adds and changes rows and never deletes any; then an older file may still add rows.';

COMMENT ON COLUMN pipeline.sources.is_monthly IS 'Whether there is one file per month.';

CREATE FUNCTION pipeline.clean_up(file bigint DEFAULT NULL::bigint) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 WITH dead AS (
          SELECT loads_1.load_id,
                 CASE
                     WHEN (loads_1.status = 'loading'::text) THEN 'The process that loaded the file was killed.'::text
                     WHEN (loads_1.status = 'pending_approval'::text) THEN concat('Nobody decided until ', loads_1.decide_until, '.')
                     ELSE 'The run did not publish the rows in 30 days.'::text
                 END AS reason
            FROM pipeline.loads loads_1
           WHERE (((clean_up.file IS NULL) OR (loads_1.file_id = clean_up.file)) AND (((loads_1.status = 'loading'::text) AND (NOT pipeline.is_running(loads_1.load_id))) OR ((loads_1.status = 'pending_approval'::text) AND (loads_1.decide_until < now())) OR ((loads_1.status = ANY (ARRAY['staged'::text, 'checked'::text])) AND (loads_1.updated_at < (now() - '30 days'::interval)))))
          FOR NO KEY UPDATE OF loads_1 SKIP LOCKED
         )
  UPDATE pipeline.loads SET status = 'failed'::text, error = (dead.reason || ' Clear the run to load the file again.'::text), updated_at = clock_timestamp()
    FROM dead
   WHERE (loads.load_id = dead.load_id);
 SELECT pipeline.drop_staged(loads.load_id) AS drop_staged
    FROM (((pg_class
      JOIN pipeline.loads ON ((format('staging.%I'::text, pg_class.relname) = loads.staged_table)))
      JOIN pipeline.files ON ((loads.file_id = files.file_id)))
      JOIN pipeline.sources ON ((files.table_name = sources.table_name)))
   WHERE ((pg_class.relnamespace = ('staging'::regnamespace)::oid) AND ((loads.status = 'failed'::text) OR ((loads.status = 'published'::text) AND (NOT sources.is_cumulative)) OR ((loads.status = 'rejected'::text) AND (EXISTS ( SELECT
            FROM pipeline.loads later
           WHERE ((later.file_id = loads.file_id) AND (later.load_id > loads.load_id))))) OR ((loads.status = 'superseded'::text) AND (NOT (EXISTS ( SELECT
            FROM pipeline.loads of_run
           WHERE (sources.is_cumulative AND (of_run.dag_id = loads.dag_id) AND (of_run.run_id = loads.run_id) AND (of_run.status = ANY (ARRAY['loading'::text, 'waiting'::text, 'staged'::text, 'checked'::text, 'pending_approval'::text])))))))));
END;

COMMENT ON FUNCTION pipeline.clean_up(file bigint) IS 'Fails the loads that nobody goes on with, of one file or of all: killed, not decided on in time, or forgotten. Then
drops the staged tables that nobody needs any more. The rows of a rejected load stay until the file is loaded again, and
those of a cumulative source while they are the published ones.';

CREATE FUNCTION pipeline.compare_load(load bigint) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    this_file constant pipeline.files := (select files from pipeline.files where file_id = this.file_id);
    source constant pipeline.sources := (select sources from pipeline.sources where table_name = this_file.table_name);
    found_rows bigint;
    found_total numeric;
begin
    if source.is_cumulative and to_regclass(this.staged_table) is null then
        return format('%s is gone, with which the table would be compared.', this.staged_table);
    elsif source.is_cumulative then
        execute format(
            'select count(*) from (table %s except table public.%I) as missing', this.staged_table, source.table_name
        ) into found_rows;
        return case
            when found_rows > 0 then format('%s rows of the published file are missing or were changed.', found_rows)
        end;
    end if;
    execute format(
        'select count(*), %s from public.%I where %s',
        case
            when source.amount_column is null then 'null::numeric'
            else format('coalesce(sum(%I), 0)', source.amount_column)
        end,
        source.table_name,
        case
            when source.is_monthly then format(
                '%1$I >= %2$L and %1$I < %3$L', source.date_column, this_file.file_month,
                (this_file.file_month + interval '1 month')::date
            )
            else 'true'
        end
    ) into found_rows, found_total;
    if found_rows <> this.row_count or found_total <> this.total then
        return concat(
            'The table has ', found_rows, ' rows', ', total ' || found_total, ', and the published file has ',
            this.row_count, ' rows', ', total ' || this.total, '.'
        );
    end if;
    return null;
end
$_$;

COMMENT ON FUNCTION pipeline.compare_load(load bigint) IS 'Compares the rows in public with the published load that they are of: their number and total, or for a cumulative
source each row. Null if nothing was changed.';

CREATE FUNCTION pipeline.create_staged(load bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    this_file constant pipeline.files := (select files from pipeline.files where file_id = this.file_id);
    month_rule text := '';
begin
    if this_file.file_month is not null then
        select format(
            ', constraint "the date is in the month of the file" check (%1$I >= %2$L and %1$I < %3$L)',
            date_column, this_file.file_month, (this_file.file_month + interval '1 month')::date
        ) into month_rule
        from pipeline.sources
        where table_name = this_file.table_name;
    end if;
    execute format(
        'create table %s (like staging.%I including all%s)', this.staged_table, this_file.table_name, month_rule
    );
    execute format('grant select, insert, maintain on %s to pipeline', this.staged_table);
    return this.staged_table;
end
$_$;

COMMENT ON FUNCTION pipeline.create_staged(load bigint) IS 'Creates the table that the file of a load is copied into, in the transaction of the COPY: like the one of its source in
staging, and for a month with a constraint on its days.';

CREATE FUNCTION pipeline.decide_load(load bigint, is_approved boolean, decided_by text) RETURNS text
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 UPDATE pipeline.loads SET status =
         CASE
             WHEN (loads.status <> 'pending_approval'::text) THEN loads.status
             WHEN ((decide_load.is_approved IS NULL) OR (loads.decide_until < now())) THEN 'failed'::text
             WHEN decide_load.is_approved THEN 'checked'::text
             ELSE 'rejected'::text
         END, error =
         CASE
             WHEN (loads.status <> 'pending_approval'::text) THEN loads.error
             WHEN ((decide_load.is_approved IS NULL) OR (loads.decide_until < now())) THEN concat('Nobody decided until ', loads.decide_until, '. Clear the run to load the file again.')
             WHEN (NOT decide_load.is_approved) THEN concat('Rejected by ', decide_load.decided_by, ': ', loads.anomalies, '. It stays rejected; to stage the file anew, clear the whole run.')
             ELSE NULL::text
         END, decided_by = decide_load.decided_by, decided_at = clock_timestamp(), updated_at = clock_timestamp()
   WHERE ((loads.load_id = decide_load.load) AND ((loads.status = ANY (ARRAY['pending_approval'::text, 'superseded'::text])) OR ((loads.status = 'checked'::text) AND decide_load.is_approved)))
   RETURNING loads.status;
END;

COMMENT ON FUNCTION pipeline.decide_load(load bigint, is_approved boolean, decided_by text) IS 'Records who decided on an unusual load, and returns its status: checked if it may be published, rejected, or failed if
the answer came too late or, with null, if there was none. A load that is superseded meanwhile stays so.';

CREATE FUNCTION pipeline.failed_trigger(context text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    RETURN (SELECT concat('A trigger failed, so nothing was published: ', string_agg(format('%I on %s, which calls %s() of %s'::text, pg_trigger.tgname, (pg_trigger.tgrelid)::regclass, (pg_proc.oid)::regproc, (pg_proc.proowner)::regrole), '; '::text ORDER BY ((pg_trigger.tgrelid)::regclass)::text, pg_trigger.tgname), '. The owner of the function can correct it, and the owner of the table can drop the trigger. Then clear', ' the run.') AS concat FROM (pg_trigger JOIN pg_proc ON ((pg_trigger.tgfoid = pg_proc.oid))) WHERE ((NOT pg_trigger.tgisinternal) AND ((strpos(failed_trigger.context, format('function %I() '::text, pg_proc.proname)) > 0) OR (strpos(failed_trigger.context, format('function %s() '::text, (pg_proc.oid)::regproc)) > 0))) HAVING (count(*) > 0));

COMMENT ON FUNCTION pipeline.failed_trigger(context text) IS 'Whose trigger an error is of, found by the functions that its context names; null if it is of none.';

CREATE FUNCTION pipeline.measure_training_set(query text, known_at timestamp with time zone, OUT row_count bigint, OUT hash text) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET "DateStyle" TO 'ISO, YMD'
    SET "TimeZone" TO 'UTC'
    SET "IntervalStyle" TO 'postgres'
    SET extra_float_digits TO '1'
    SET bytea_output TO 'hex'
    AS $_$
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
$_$;

COMMENT ON FUNCTION pipeline.measure_training_set(query text, known_at timestamp with time zone, OUT row_count bigint, OUT hash text) IS 'Runs a query with the rights of the caller; $1 in it is the moment. The hash is made of the sum of the rows'' hashes.';

CREATE FUNCTION pipeline.notice(message text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    raise notice using message = message;
end
$$;

COMMENT ON FUNCTION pipeline.notice(message text) IS 'Writes this message to the log of the task.';

CREATE FUNCTION pipeline.open_feature_store() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    if exists (select from pipeline.features_opened) or not exists (select from public.feature_store) then
        return;
    end if;
    insert into pipeline.features_opened default values;
    -- A reader that is past its check of privileges ends first; one that comes now sees the rows with the privileges.
    lock table public.feature_history, public.feature_store in access exclusive mode;
    grant select on public.feature_history, public.feature_store to ds_user_role;
    grant all on public.feature_history, public.feature_store to mle_user_role;
end
$$;

COMMENT ON FUNCTION pipeline.open_feature_store() IS 'Grants the privileges on the features to their readers, once: at the end of the first build that has a row. What a
person revokes later stays revoked.';

CREATE FUNCTION pipeline.open_staged(load bigint, view_name text, sample_rows integer DEFAULT NULL::integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    source pipeline.sources;
    staged_columns text;
    expected_columns text;
begin
    select sources.* into source
    from pipeline.sources
    inner join pipeline.files
        on sources.table_name = files.table_name
    where files.file_id = this.file_id;
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
            ': ' || this.error, '. It has no staged rows, and the tables stay as they were. Clear this run from its',
            ' staging tasks on.'
        ));
    end if;

    select
        string_agg(definition, ', ' order by attnum) filter (where attrelid = this.staged_table::regclass),
        string_agg(definition, ', ' order by attnum) filter (where attrelid <> this.staged_table::regclass)
    into staged_columns, expected_columns
    from pg_attribute
    cross join lateral format('%I %s', attname, format_type(atttypid, atttypmod)) as definition
    where
        attrelid in (this.staged_table::regclass, format('staging.%I', source.table_name)::regclass)
        and attnum > 0
        and not attisdropped;
    if staged_columns <> expected_columns then
        perform pipeline.reject(format(
            '%s was staged with the columns (%s), and staging.%I has (%s) since a migration, so it is not published.'
            ' Clear this run from its staging tasks on.',
            this.source_url, staged_columns, source.table_name, expected_columns
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

COMMENT ON FUNCTION pipeline.open_staged(load bigint, view_name text, sample_rows integer) IS 'Gives the staged rows of a load, or a sample of about so many, a name: a temporary view, which the file that calls it
drops. A load whose columns differ from those of its source in staging now is rejected, and so is one that a person has
rejected. SQLSTATE PL001 says that the load is superseded.';

CREATE FUNCTION pipeline.profile_load(load bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    sample constant text := format(
        '(select * from %s tablesample system (%s) repeatable (0)) as sample', this.staged_table,
        least(100, 5e6 / greatest(this.row_count, 1))
    );
    profiled record;
begin
    delete from pipeline.column_profiles where load_id = load;
    for profiled in
        select
            quote_ident(pg_attribute.attname) as name,
            pg_attribute.attname,
            pg_type.typcategory = 'N' as is_number,
            pg_type.typcategory = 'D' as is_day,
            pg_type.typcategory = 'S' as is_text
        from pg_attribute
        inner join pg_type
            on pg_attribute.atttypid = pg_type.oid
        where attrelid = this.staged_table::regclass and attnum > 0 and not attisdropped
    loop
        execute concat(
            'insert into pipeline.column_profiles (load_id, column_name, sample_rows, missing_values, distinct_values',
            case when profiled.is_number then ', smallest, lower_quartile, median, upper_quartile, largest,'
                ' negative_values, negative_total' end,
            case when profiled.is_day then ', first_day, last_day' end,
            ', counts) select $1, $2, row_count, row_count - value_count, distinct_values',
            case when profiled.is_number then ', quantiles[1], quantiles[2], quantiles[3], quantiles[4], quantiles[5],'
                ' negative_values, negative_total' end,
            case when profiled.is_day then ', first_day, last_day' end,
            ', case when distinct_values <= ', case when profiled.is_text then 100 when profiled.is_number then 10 else 0 end,
            ' then (select jsonb_object_agg(shown, shown_rows) from (select ',
            case when profiled.is_text then 'pipeline.shown(value)' else 'value' end,
            ' as shown, sum(value_rows) as shown_rows from (select ', profiled.name, '::text as value,',
            ' count(*) as value_rows from ', sample, ' where ', profiled.name, ' is not null group by 1) as counted',
            ' group by 1) as listed) end',
            ' from (select count(*) as row_count, count(', profiled.name, ') as value_count',
            ', count(distinct ', profiled.name, ') as distinct_values',
            case when profiled.is_number then format(
                ', (percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (order by %1$s))::numeric[] as quantiles'
                ', count(*) filter (where %1$s < 0) as negative_values'
                ', sum(%1$s) filter (where %1$s < 0) as negative_total', profiled.name
            ) end,
            case when profiled.is_day then format(
                ', min(%1$s) as first_day, max(%1$s) as last_day', profiled.name
            ) end,
            ' from ', sample, ') as figures'
        ) using load, profiled.attname;
    end loop;
end
$_$;

COMMENT ON FUNCTION pipeline.profile_load(load bigint) IS 'Keeps the figures of each column of a staged load, by its type: of all rows up to 50,000, above that of a sample of
about so many. Values are counted one by one where there are few: up to 100 of a text, up to 10 of a number.';

CREATE FUNCTION pipeline.publish_load(load bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    this pipeline.loads;
    previous pipeline.loads;
    source pipeline.sources;
    is_late boolean;
begin
    update pipeline.files
    set compared_at = null, difference = null
    where file_id = (select file_id from pipeline.loads where load_id = load);
    select * into this from pipeline.loads where load_id = load;
    select * into previous from pipeline.loads where file_id = this.file_id and status in ('published', 'retired');
    select sources.* into source
    from pipeline.sources
    inner join pipeline.files
        on sources.table_name = files.table_name
    where files.file_id = this.file_id;

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
            ': ' || this.error, '. Only a checked load can be published, and the tables stay as they were. Clear this',
            ' run from its staging tasks on.'
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

    if previous.sha256 <> this.sha256 then
        perform pipeline.notice(concat(
            this.source_url, ' has changed since load ', previous.load_id, ': rows ', previous.row_count, ' -> ',
            this.row_count, ', total ' || previous.total || ' -> ' || this.total,
            ', SHA-256 ', previous.sha256, ' -> ', this.sha256
        ));
    end if;
end
$$;

COMMENT ON FUNCTION pipeline.publish_load(load bigint) IS 'Locks the file until the transaction ends, and makes a checked load the published one. An error with SQLSTATE PL001
says that a later request is published, and PL002 that the load is published already; a load of a cumulative source
raises neither.';

CREATE FUNCTION pipeline.record_training_set(name text, query text, known_at timestamp with time zone, row_count bigint, hash text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
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
                select array[builds.profiles_load, builds.activity_load, builds.labels_load]
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

COMMENT ON FUNCTION pipeline.record_training_set(name text, query text, known_at timestamp with time zone, row_count bigint, hash text) IS 'Records a training set that was measured.';

CREATE FUNCTION pipeline.reject(message text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    raise exception using message = message, errcode = 'check_violation';
end
$$;

COMMENT ON FUNCTION pipeline.reject(message text) IS 'Fails the transaction with this message: what happened, why the load stops, what to do.';

CREATE FUNCTION pipeline.request_approval(load bigint, decide_until timestamp with time zone) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 UPDATE pipeline.loads SET status = 'pending_approval'::text, decide_until = request_approval.decide_until, updated_at = clock_timestamp()
   WHERE ((loads.load_id = request_approval.load) AND (loads.status = ANY (ARRAY['checked'::text, 'pending_approval'::text])));
END;

COMMENT ON FUNCTION pipeline.request_approval(load bigint, decide_until timestamp with time zone) IS 'Holds a checked load back until decide_load is called, or until that moment.';

CREATE FUNCTION pipeline.request_file(load bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    perform from pipeline.files
    where file_id = (select file_id from pipeline.loads where load_id = load)
    for no key update;
    update pipeline.loads
    set request_number = nextval('pipeline.request_numbers'), requested_at = clock_timestamp()
    where load_id = load;
end
$$;

COMMENT ON FUNCTION pipeline.request_file(load bigint) IS 'Locks the file and numbers the request. The transaction ends when the server has begun to answer, so that a later
request never gets an older file.';

CREATE FUNCTION pipeline.require_checked(VARIADIC load_ids bigint[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT pipeline.reject(concat(string_agg(concat(loads.source_url, ': ', loads.error), '; '::text ORDER BY loads.source_url), '. Nothing was published, and the tables stay as they were. When the file is corrected, clear this run.')) AS reject
    FROM pipeline.loads
   WHERE ((loads.load_id = ANY (require_checked.load_ids)) AND (loads.status = ANY (ARRAY['rejected'::text, 'superseded'::text])) AND (loads.error IS NOT NULL))
  HAVING (count(*) > 0);
END;

COMMENT ON FUNCTION pipeline.require_checked(VARIADIC load_ids bigint[]) IS 'Fails with all verdicts at once if one of the loads is rejected.';

CREATE FUNCTION pipeline.retire_load(load bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
    this pipeline.loads;
    this_file pipeline.files;
    query text;
    has_rows boolean;
begin
    select * into this_file
    from pipeline.files
    where file_id = (select file_id from pipeline.loads where load_id = load)
    for no key update;
    select * into this from pipeline.loads where load_id = load;
    if this.status is distinct from 'published' or this_file.file_month is null then
        perform pipeline.reject(format(
            'Load %s is not the published load of a month, so it was not retired. pipeline.loads lists them.', load
        ));
    end if;
    select format(
        'select exists (select from public.%1$I where %2$I >= %3$L and %2$I < %4$L)',
        table_name, date_column, this_file.file_month, (this_file.file_month + interval '1 month')::date
    ) into query
    from pipeline.sources
    where table_name = this_file.table_name;
    execute query into has_rows;
    if has_rows then
        perform pipeline.reject(format(
            'public.%I still has the rows of %s, so load %s was not retired. Detach their partition first:'
            ' docs/operations.md, "Take an old month out".', this_file.table_name, this_file.file_month, load
        ));
    end if;
    update pipeline.loads set status = 'retired', updated_at = clock_timestamp() where load_id = load;
end
$_$;

COMMENT ON FUNCTION pipeline.retire_load(load bigint) IS 'Records that the rows of a published month were taken out of the table, so that nothing expects them there. Loading the
month again brings it back.';

CREATE FUNCTION pipeline.shown(letter text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    RETURN CASE WHEN (length(letter) > 8) THEN '(longer text)'::text ELSE (SELECT COALESCE(string_agg(CASE WHEN (characters.found ~ '^[0-9A-Za-z\u00C0-\u024F\u0370-\u04FF]$'::text) THEN characters.found ELSE ('U+'::text || lpad(upper(to_hex(ascii(characters.found))), 4, '0'::text)) END, ''::text ORDER BY characters.place), ''::text) AS "coalesce" FROM string_to_table(shown.letter, NULL::text) WITH ORDINALITY characters(found, place)) END;

COMMENT ON FUNCTION pipeline.shown(letter text) IS 'A letter of a file, for pages and messages: letters and digits are shown as they are, other characters by their code.
Text of more than 8 characters is not a letter.';

CREATE FUNCTION pipeline.stage_load(load bigint, etag text, last_modified timestamp with time zone, bytes bigint, sha256 text, row_count bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET default_statistics_target TO '10'
    AS $$
declare
    this pipeline.loads;
begin
    select * into this from pipeline.loads where load_id = load;
    execute 'analyze ' || this.staged_table;
    perform from pipeline.files where file_id = this.file_id for no key update;
    update pipeline.loads
    set
        status = case
            -- Files that are published together have their number when they are checked.
            when exists (
                select
                from pipeline.loads as later
                inner join pipeline.files
                    on later.file_id = files.file_id
                inner join pipeline.sources
                    on files.table_name = sources.table_name
                where
                    later.file_id = this.file_id
                    and later.status = 'published'
                    and later.request_number > this.request_number
                    and sources.published_with is null
            ) then 'superseded'
            else 'staged'
        end,
        etag = stage_load.etag,
        last_modified = stage_load.last_modified,
        bytes = stage_load.bytes,
        sha256 = stage_load.sha256,
        row_count = stage_load.row_count,
        updated_at = clock_timestamp()
    where load_id = load and status = 'loading';
    if not found then
        raise exception 'Load % is not loading any more, so it is not staged. Clear this run.', load;
    end if;
end
$$;

COMMENT ON FUNCTION pipeline.stage_load(load bigint, etag text, last_modified timestamp with time zone, bytes bigint, sha256 text, row_count bigint) IS 'Records, in the transaction of the COPY, that all rows of the file are staged.';

CREATE FUNCTION pipeline.stop_load(load bigint, status text, error text, wait_until timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 UPDATE pipeline.loads SET status = stop_load.status, error = stop_load.error, wait_until = stop_load.wait_until, updated_at = clock_timestamp()
   WHERE ((loads.load_id = stop_load.load) AND (loads.status = 'loading'::text));
END;

COMMENT ON FUNCTION pipeline.stop_load(load bigint, status text, error text, wait_until timestamp with time zone) IS 'Records why an attempt staged nothing: waiting, rejected or failed.';

CREATE FUNCTION pipeline.training_moment(known_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    newest timestamptz;
    kept timestamptz;
begin
    select max(builds.known_at), max(builds.kept_from) into newest, kept from pipeline.feature_store_builds as builds;
    if newest is null then
        perform pipeline.reject(
            'There are no features yet, so no training set can be made. Make it when feature_store has been built.'
        );
    elsif training_moment.known_at < kept then
        perform pipeline.reject(format(
            'Superseded rows of feature_history are deleted up to %s, so what was known at %s cannot be made again.'
            ' Choose a later moment.', kept, training_moment.known_at
        ));
    end if;
    return least(training_moment.known_at, newest);
end
$$;

COMMENT ON FUNCTION pipeline.training_moment(known_at timestamp with time zone) IS 'This moment, or that of the newest build if it is earlier or null is given: what was known at it does not change.';

CREATE FUNCTION pipeline.verify_load(load bigint, table_name text, row_count numeric, total numeric DEFAULT NULL::numeric) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
begin
    if
        verify_load.row_count <> this.row_count
        or coalesce(verify_load.total, 0) <> coalesce(this.total, 0)
    then
        perform pipeline.reject(concat(
            this.source_url, ': ', verify_load.table_name, ' has ',
            coalesce(nullif(concat_ws(', ', verify_load.row_count || ' rows', 'total ' || verify_load.total), ''), 'no rows'),
            ' after publishing, and the load that was checked has ',
            concat_ws(', ', this.row_count || ' rows', 'total ' || this.total),
            '. Nothing was published. A trigger or a policy on the table changes or hides rows: pg_trigger and pg_policy',
            ' show them. When it is corrected, clear this run.'
        ));
    end if;
end
$$;

COMMENT ON FUNCTION pipeline.verify_load(load bigint, table_name text, row_count numeric, total numeric) IS 'Compares what stands in a table with what was checked, and fails the publication if rows or total differ. What a
table or a source does not have is null.';

CREATE TABLE public.feature_store (
    idx integer NOT NULL,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer NOT NULL
)
WITH (vacuum_truncate=off);

COMMENT ON TABLE public.feature_store IS 'One row for every client that has a profile, an activity and a label, with its latest activity: the last row of each
client in feature_history.';

COMMENT ON COLUMN public.feature_store.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.feature_store.attr_a IS 'customer_profiles.attr_a';

COMMENT ON COLUMN public.feature_store.attr_b IS 'customer_profiles.attr_b';

COMMENT ON COLUMN public.feature_store.scd_a IS 'customer_activity.scd_a of the latest activity';

COMMENT ON COLUMN public.feature_store.scd_b IS 'customer_activity.scd_b of the latest activity';

COMMENT ON COLUMN public.feature_store.label IS 'labels.label';

CREATE FUNCTION public.feature_store_as_of(day date, known_at timestamp with time zone DEFAULT 'infinity'::timestamp with time zone) RETURNS SETOF public.feature_store
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $_$
    select (features).*
    from public.feature_rows
    where
        valid_from <= $1
        and (valid_to > $1 or valid_to is null)
        and known_from <= $2
        and (known_to is null or known_to > $2)
$_$;

COMMENT ON FUNCTION public.feature_store_as_of(day date, known_at timestamp with time zone) IS 'The features of each client on that day, as they were known at that moment; without one, as they are known now. Clients
whose first activity began later are left out. On a day after all rows of the files it equals feature_store.';

CREATE FUNCTION public.feature_store_at(idx integer[], day date[], known_at timestamp with time zone DEFAULT 'infinity'::timestamp with time zone) RETURNS TABLE(idx integer, day date, attr_a integer, attr_b text, scd_a double precision, scd_b integer, label integer)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $_$
    -- Sorted pairs find their rows next to each other. A join without a limit would hash the whole history.
    with pairs as (
        select
            given.idx,
            given.day,
            given.position
        from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) with ordinality as given (idx, day, position)
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
                (begun.features).*
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
$_$;

COMMENT ON FUNCTION public.feature_store_at(idx integer[], day date[], known_at timestamp with time zone) IS 'The features of each pair of a client and a day, as they were known at that moment; without one, as they are known now:
one row per pair, in the order of the arrays, with nulls if nothing is known of the client on the day.';

CREATE TABLE pipeline.training_sets (
    set_name text NOT NULL,
    query text NOT NULL,
    known_at timestamp with time zone NOT NULL,
    loads bigint[] NOT NULL,
    row_count bigint NOT NULL,
    set_hash text NOT NULL,
    made_by text DEFAULT SESSION_USER NOT NULL,
    made_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE pipeline.training_sets IS 'Every training set that was recorded; readers see it in public.';

COMMENT ON COLUMN pipeline.training_sets.set_name IS 'Its name.';

COMMENT ON COLUMN pipeline.training_sets.query IS 'Query that makes it; $1 is known_at.';

COMMENT ON COLUMN pipeline.training_sets.known_at IS 'Moment whose knowledge it uses.';

COMMENT ON COLUMN pipeline.training_sets.loads IS 'Loads of the profiles, the activity and the labels known then.';

COMMENT ON COLUMN pipeline.training_sets.row_count IS 'Its rows.';

COMMENT ON COLUMN pipeline.training_sets.set_hash IS 'SHA-256 over its rows, in whatever order.';

COMMENT ON COLUMN pipeline.training_sets.made_by IS 'Login.';

COMMENT ON COLUMN pipeline.training_sets.made_at IS 'When it was recorded.';

CREATE VIEW public.training_sets AS
 SELECT set_name AS name,
    query,
    known_at,
    loads,
    row_count,
    set_hash AS hash,
    made_by,
    made_at
   FROM pipeline.training_sets;

COMMENT ON VIEW public.training_sets IS 'Every training set that make_training_set recorded.';

COMMENT ON COLUMN public.training_sets.name IS 'Its name.';

COMMENT ON COLUMN public.training_sets.query IS 'Query that makes it; $1 is known_at.';

COMMENT ON COLUMN public.training_sets.known_at IS 'Moment whose knowledge of the features it uses.';

COMMENT ON COLUMN public.training_sets.loads IS 'Loads of the profiles, the activity and the labels that were known then; data_freshness names their versions.';

COMMENT ON COLUMN public.training_sets.row_count IS 'Its rows.';

COMMENT ON COLUMN public.training_sets.hash IS 'SHA-256 over its rows. It does not depend on their order.';

COMMENT ON COLUMN public.training_sets.made_by IS 'Login that made it.';

COMMENT ON COLUMN public.training_sets.made_at IS 'When it was made.';

CREATE FUNCTION public.make_training_set(name text, query text, known_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS public.training_sets
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT pipeline.record_training_set(make_training_set.name, make_training_set.query, moments.moment, measured.row_count, measured.hash) AS record_training_set
    FROM (pipeline.training_moment(make_training_set.known_at) moments(moment)
      CROSS JOIN LATERAL pipeline.measure_training_set(make_training_set.query, moments.moment) measured(row_count, hash));
 SELECT recorded.name,
     recorded.query,
     recorded.known_at,
     recorded.loads,
     recorded.row_count,
     recorded.hash,
     recorded.made_by,
     recorded.made_at
    FROM public.training_sets recorded
   WHERE (recorded.name = make_training_set.name);
END;

COMMENT ON FUNCTION public.make_training_set(name text, query text, known_at timestamp with time zone) IS 'Runs a query, in which $1 is the moment whose knowledge it uses, and records it in training_sets. Without a moment, or
with one after the newest build of the features, it is that of the newest build.';

CREATE FUNCTION public.repeat_training_set(name text) RETURNS TABLE(name text, row_count bigint, hash text, is_same boolean)
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT pipeline.reject(
         CASE
             WHEN (recorded.name IS NULL) THEN format('There is no training set "%s". training_sets lists all.'::text, repeat_training_set.name)
             ELSE format('The training set "%s" was made by %s, and its query is run with the rights of its caller. Log in as %s, or read the query in training_sets and make it under another name.'::text, repeat_training_set.name, recorded.made_by, recorded.made_by)
         END) AS reject
    FROM (( VALUES (repeat_training_set.name)) asked(name)
      LEFT JOIN public.training_sets recorded ON ((asked.name = recorded.name)))
   WHERE (recorded.made_by IS DISTINCT FROM SESSION_USER);
 SELECT recorded.name,
     measured.row_count,
     measured.hash,
     ((measured.row_count = recorded.row_count) AND (measured.hash = recorded.hash)) AS is_same
    FROM ((public.training_sets recorded
      CROSS JOIN LATERAL pipeline.training_moment(recorded.known_at) moments(moment))
      CROSS JOIN LATERAL pipeline.measure_training_set(recorded.query, moments.moment) measured(row_count, hash))
   WHERE (recorded.name = repeat_training_set.name);
END;

COMMENT ON FUNCTION public.repeat_training_set(name text) IS 'Makes a training set again, for the login that made it, and says whether it has the same rows.';

CREATE TABLE public.feature_history (
    idx integer NOT NULL,
    valid_from date NOT NULL,
    valid_to date,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer NOT NULL,
    known_from timestamp with time zone NOT NULL,
    known_to timestamp with time zone,
    CONSTRAINT feature_history_check CHECK ((valid_to > valid_from)),
    CONSTRAINT feature_history_check1 CHECK ((known_to > known_from))
)
PARTITION BY LIST (known_to);

COMMENT ON TABLE public.feature_history IS 'The features of every client that has a profile, an activity and a label, on every day, and when they were known. The
rows of a client that are known now (known_to is null) follow each other without a gap from its first day on.';

COMMENT ON COLUMN public.feature_history.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.feature_history.valid_from IS 'First day on which the row holds.';

COMMENT ON COLUMN public.feature_history.valid_to IS 'Day on which the next row of the client begins; null for the last row, which is the row of feature_store.';

COMMENT ON COLUMN public.feature_history.attr_a IS 'customer_profiles.attr_a';

COMMENT ON COLUMN public.feature_history.attr_b IS 'customer_profiles.attr_b';

COMMENT ON COLUMN public.feature_history.scd_a IS 'customer_activity.scd_a of the latest activity on these days';

COMMENT ON COLUMN public.feature_history.scd_b IS 'customer_activity.scd_b of the latest activity on these days';

COMMENT ON COLUMN public.feature_history.label IS 'labels.label';

COMMENT ON COLUMN public.feature_history.known_from IS 'When the newest of the three files that the row was built from was published.';

COMMENT ON COLUMN public.feature_history.known_to IS 'The same of the files that replaced or removed the row; null while the row is known.';

CREATE TABLE partitions.feature_history_known (
    idx integer NOT NULL,
    valid_from date NOT NULL,
    valid_to date,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer CONSTRAINT feature_history_label_not_null NOT NULL,
    known_from timestamp with time zone CONSTRAINT feature_history_known_from_not_null NOT NULL,
    known_to timestamp with time zone,
    CONSTRAINT feature_history_check CHECK ((valid_to > valid_from)),
    CONSTRAINT feature_history_check1 CHECK ((known_to > known_from))
)
WITH (vacuum_truncate=off);

CREATE TABLE partitions.feature_history_superseded (
    idx integer CONSTRAINT feature_history_idx_not_null NOT NULL,
    valid_from date CONSTRAINT feature_history_valid_from_not_null NOT NULL,
    valid_to date,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer CONSTRAINT feature_history_label_not_null NOT NULL,
    known_from timestamp with time zone CONSTRAINT feature_history_known_from_not_null NOT NULL,
    known_to timestamp with time zone,
    CONSTRAINT feature_history_check CHECK ((valid_to > valid_from)),
    CONSTRAINT feature_history_check1 CHECK ((known_to > known_from)),
    CONSTRAINT feature_history_superseded_known_to CHECK (((known_to IS NOT NULL) AND (known_to < 'infinity'::timestamp with time zone)))
)
WITH (vacuum_truncate=off);

ALTER TABLE ONLY partitions.feature_history_superseded REPLICA IDENTITY FULL;

CREATE TABLE public.sales (
    idx integer NOT NULL,
    value numeric NOT NULL,
    date date NOT NULL,
    store_idx integer NOT NULL
)
PARTITION BY RANGE (date);

COMMENT ON TABLE public.sales IS 'Daily sales, exactly as in the monthly files. One partition per month: name the dates to read only their months.';

COMMENT ON COLUMN public.sales.idx IS 'Index of the sale, as in the file.';

COMMENT ON COLUMN public.sales.value IS 'Amount sold that day, exact; negative for a refund.';

COMMENT ON COLUMN public.sales.date IS 'Day of the sale.';

COMMENT ON COLUMN public.sales.store_idx IS 'Store of the sale: stores.idx.';

CREATE TABLE partitions.sales_before_all_months (
    idx integer CONSTRAINT sales_idx_not_null NOT NULL,
    value numeric CONSTRAINT sales_value_not_null NOT NULL,
    date date CONSTRAINT sales_date_not_null NOT NULL,
    store_idx integer CONSTRAINT sales_store_idx_not_null NOT NULL
);

ALTER TABLE ONLY partitions.sales_before_all_months REPLICA IDENTITY FULL;

CREATE TABLE pipeline.anomaly_checks (
    load_id bigint NOT NULL,
    measure text NOT NULL,
    value numeric NOT NULL,
    median numeric,
    low numeric,
    high numeric,
    anomaly text
);

COMMENT ON TABLE pipeline.anomaly_checks IS 'Each measure of a load, and what it was compared with.';

COMMENT ON COLUMN pipeline.anomaly_checks.load_id IS 'The load: loads.load_id.';

COMMENT ON COLUMN pipeline.anomaly_checks.measure IS 'What was measured.';

COMMENT ON COLUMN pipeline.anomaly_checks.value IS 'The value for this load.';

COMMENT ON COLUMN pipeline.anomaly_checks.median IS 'Median of the loads that it was compared with; null without enough.';

COMMENT ON COLUMN pipeline.anomaly_checks.low IS 'Smallest value that is not unusual.';

COMMENT ON COLUMN pipeline.anomaly_checks.high IS 'Greatest value that is not unusual.';

COMMENT ON COLUMN pipeline.anomaly_checks.anomaly IS 'What is unusual, in words; null if nothing is.';

CREATE TABLE pipeline.sales_by_store (
    load_id bigint NOT NULL,
    store_idx integer NOT NULL,
    row_count bigint NOT NULL,
    min_idx integer NOT NULL,
    max_date date NOT NULL,
    total numeric NOT NULL
);

COMMENT ON TABLE pipeline.sales_by_store IS 'What each load of a sales file holds, by store; kept until a newer load of the month is published.';

COMMENT ON COLUMN pipeline.sales_by_store.load_id IS 'The load: loads.load_id.';

COMMENT ON COLUMN pipeline.sales_by_store.store_idx IS 'Store of the sales.';

COMMENT ON COLUMN pipeline.sales_by_store.row_count IS 'Number of sales.';

COMMENT ON COLUMN pipeline.sales_by_store.min_idx IS 'Smallest idx of the sales, to find them in the file.';

COMMENT ON COLUMN pipeline.sales_by_store.max_date IS 'Latest day of the sales.';

COMMENT ON COLUMN pipeline.sales_by_store.total IS 'Exact sum of the sales.';

CREATE VIEW pipeline.approval_requests AS
 WITH rounded AS (
         SELECT anomaly_checks.load_id,
            anomaly_checks.measure,
            anomaly_checks.anomaly,
            "left"((trim_scale(round(anomaly_checks.value, places.number)))::text, 40) AS value,
            "left"((trim_scale(round(anomaly_checks.median, places.number)))::text, 40) AS median,
            "left"((trim_scale(round(
                CASE
                    WHEN (anomaly_checks.value < (0)::numeric) THEN anomaly_checks.low
                    ELSE GREATEST(anomaly_checks.low, (0)::numeric)
                END, places.number)))::text, 40) AS low,
            "left"((trim_scale(round(anomaly_checks.high, places.number)))::text, 40) AS high
           FROM (pipeline.anomaly_checks
             CROSS JOIN LATERAL ( VALUES (
                        CASE
                            WHEN (abs(anomaly_checks.value) < (1)::numeric) THEN 4
                            ELSE 2
                        END)) places(number))
        ), measures AS (
         SELECT rounded.load_id,
            string_agg(concat_ws(' | '::text,
                CASE
                    WHEN (rounded.anomaly IS NULL) THEN ''::text
                    ELSE '**unusual**'::text
                END, replace(rounded.measure, '_'::text, ' '::text), rounded.value, COALESCE(rounded.median, ''::text), COALESCE(((rounded.low || ' to '::text) || rounded.high), ''::text)), '
'::text ORDER BY (rounded.anomaly IS NULL), rounded.measure) AS listing
           FROM rounded
          GROUP BY rounded.load_id
        ), by_store AS (
         SELECT loads_1.load_id,
            sold.store_idx,
            COALESCE(sum(sold.row_count) FILTER (WHERE (sold.load_id = published.load_id)), (0)::numeric) AS rows_now,
            COALESCE(sum(sold.row_count) FILTER (WHERE (sold.load_id = loads_1.load_id)), (0)::numeric) AS rows_then,
            COALESCE(sum(sold.total) FILTER (WHERE (sold.load_id = published.load_id)), (0)::numeric) AS total_now,
            COALESCE(sum(sold.total) FILTER (WHERE (sold.load_id = loads_1.load_id)), (0)::numeric) AS total_then
           FROM ((pipeline.loads loads_1
             JOIN pipeline.loads published ON (((loads_1.file_id = published.file_id) AND (loads_1.load_id <> published.load_id) AND (published.status = 'published'::text))))
             JOIN pipeline.sales_by_store sold ON (((sold.load_id = loads_1.load_id) OR (sold.load_id = published.load_id))))
          GROUP BY loads_1.load_id, sold.store_idx
        ), changes AS (
         SELECT by_store.load_id,
            by_store.store_idx,
            by_store.rows_now,
            by_store.rows_then,
            by_store.total_now,
            by_store.total_then,
            row_number() OVER (PARTITION BY by_store.load_id ORDER BY (abs((by_store.rows_then - by_store.rows_now))) DESC, (abs((by_store.total_then - by_store.total_now))) DESC, by_store.store_idx) AS place
           FROM by_store
          WHERE ((by_store.rows_now IS DISTINCT FROM by_store.rows_then) OR (by_store.total_now IS DISTINCT FROM by_store.total_then))
        ), stores AS (
         SELECT changes.load_id,
            string_agg(concat_ws(' | '::text, changes.store_idx, changes.rows_now, changes.rows_then, changes.total_now, changes.total_then), '
'::text ORDER BY changes.place) AS listing
           FROM changes
          WHERE (changes.place <= 20)
          GROUP BY changes.load_id
        )
 SELECT loads.load_id,
    loads.status,
    loads.error,
    loads.anomalies,
    loads.decided_by,
    (loads.file_id IN ( SELECT published.file_id
           FROM pipeline.loads published
          WHERE (published.status = ANY (ARRAY['published'::text, 'retired'::text])))) AS replaces_rows,
    concat_ws('

'::text, concat('**', loads.source_url, '** (load ', loads.load_id, '): ', COALESCE(loads.anomalies, 'nothing is unusual'::text), '.'), ('| | measure | this file | median | expected |
| --- | --- | --- | --- | --- |
'::text || regexp_replace(measures.listing, '^(.*)$'::text, '| \1 |'::text, 'gn'::text)), (('Against what is published, the stores that change most:

'::text || '| store | rows now | rows then | total now | total then |
| --- | --- | --- | --- | --- |
'::text) || regexp_replace(stores.listing, '^(.*)$'::text, '| \1 |'::text, 'gn'::text))) AS question
   FROM ((pipeline.loads
     JOIN measures ON ((loads.load_id = measures.load_id)))
     LEFT JOIN stores ON ((loads.load_id = stores.load_id)));

COMMENT ON VIEW pipeline.approval_requests IS 'What a person is asked about a load: its measures, and what publishing changes.';

COMMENT ON COLUMN pipeline.approval_requests.load_id IS 'The load: loads.load_id.';

COMMENT ON COLUMN pipeline.approval_requests.status IS 'State of the load: loads.status.';

COMMENT ON COLUMN pipeline.approval_requests.error IS 'Why it is rejected or failed: loads.error.';

COMMENT ON COLUMN pipeline.approval_requests.anomalies IS 'What is unusual about it.';

COMMENT ON COLUMN pipeline.approval_requests.decided_by IS 'Who has decided already: loads.decided_by.';

COMMENT ON COLUMN pipeline.approval_requests.replaces_rows IS 'Whether rows of this file are published.';

COMMENT ON COLUMN pipeline.approval_requests.question IS 'The question, in Markdown.';

CREATE TABLE pipeline.client_hashes (
    idx integer NOT NULL,
    source_hash bigint NOT NULL
);

ALTER TABLE ONLY pipeline.client_hashes REPLICA IDENTITY FULL;

COMMENT ON TABLE pipeline.client_hashes IS 'The source rows that the known rows of each client in feature_history were built from.';

COMMENT ON COLUMN pipeline.client_hashes.idx IS 'Client.';

COMMENT ON COLUMN pipeline.client_hashes.source_hash IS 'Hash of its profile, its label and all its activity.';

CREATE TABLE pipeline.column_profiles (
    load_id bigint NOT NULL,
    column_name text NOT NULL,
    sample_rows bigint NOT NULL,
    missing_values bigint NOT NULL,
    distinct_values bigint NOT NULL,
    smallest numeric,
    lower_quartile numeric,
    median numeric,
    upper_quartile numeric,
    largest numeric,
    negative_values bigint,
    negative_total numeric,
    first_day date,
    last_day date,
    counts jsonb
);

COMMENT ON TABLE pipeline.column_profiles IS 'What each load holds, by column.';

COMMENT ON COLUMN pipeline.column_profiles.load_id IS 'The load: loads.load_id.';

COMMENT ON COLUMN pipeline.column_profiles.column_name IS 'Column of the file.';

COMMENT ON COLUMN pipeline.column_profiles.sample_rows IS 'Rows that the figures are of: all of the file up to 50,000, above that a sample of about so many.';

COMMENT ON COLUMN pipeline.column_profiles.missing_values IS 'Rows without a value.';

COMMENT ON COLUMN pipeline.column_profiles.distinct_values IS 'Different values.';

COMMENT ON COLUMN pipeline.column_profiles.smallest IS 'Smallest number.';

COMMENT ON COLUMN pipeline.column_profiles.lower_quartile IS 'A quarter of the numbers are no greater.';

COMMENT ON COLUMN pipeline.column_profiles.median IS 'Half of the numbers are no greater.';

COMMENT ON COLUMN pipeline.column_profiles.upper_quartile IS 'Three quarters of the numbers are no greater.';

COMMENT ON COLUMN pipeline.column_profiles.largest IS 'Largest number.';

COMMENT ON COLUMN pipeline.column_profiles.negative_values IS 'Rows with a number below 0: in sales.value, refunds.';

COMMENT ON COLUMN pipeline.column_profiles.negative_total IS 'Sum of the numbers below 0.';

COMMENT ON COLUMN pipeline.column_profiles.first_day IS 'First day.';

COMMENT ON COLUMN pipeline.column_profiles.last_day IS 'Last day.';

COMMENT ON COLUMN pipeline.column_profiles.counts IS 'Rows of each value, where there are few; see pipeline.shown.';

CREATE TABLE pipeline.feature_store_builds (
    build_id bigint NOT NULL,
    built_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    known_at timestamp with time zone NOT NULL,
    kept_from timestamp with time zone,
    row_count bigint DEFAULT 0 NOT NULL,
    history_row_count bigint DEFAULT 0 NOT NULL,
    profiles_load bigint,
    activity_load bigint,
    labels_load bigint
);

COMMENT ON TABLE pipeline.feature_store_builds IS 'Every rebuild of feature_history and feature_store, and its loads.';

COMMENT ON COLUMN pipeline.feature_store_builds.build_id IS 'The later of two builds has the greater one.';

COMMENT ON COLUMN pipeline.feature_store_builds.built_at IS 'When.';

COMMENT ON COLUMN pipeline.feature_store_builds.known_at IS 'known_from of the rows that it inserted, and known_to of those that it superseded: when the newest of its loads was
published. If an earlier build knew that load or a later moment, the rows were changed by hand, and it is the time of the
build.';

COMMENT ON COLUMN pipeline.feature_store_builds.kept_from IS 'Superseded rows that were known until an earlier moment are deleted; null if all are kept.';

COMMENT ON COLUMN pipeline.feature_store_builds.row_count IS 'Clients in the feature store.';

COMMENT ON COLUMN pipeline.feature_store_builds.history_row_count IS 'Rows of feature_history that are known.';

COMMENT ON COLUMN pipeline.feature_store_builds.profiles_load IS 'Load of customer_profiles.';

COMMENT ON COLUMN pipeline.feature_store_builds.activity_load IS 'Load of customer_activity.';

COMMENT ON COLUMN pipeline.feature_store_builds.labels_load IS 'Load of labels.';

CREATE TABLE pipeline.rejected_builds (
    profiles_load bigint,
    activity_load bigint,
    labels_load bigint,
    error text NOT NULL
);

ALTER TABLE ONLY pipeline.rejected_builds REPLICA IDENTITY FULL;

COMMENT ON TABLE pipeline.rejected_builds IS 'The newest attempt at a rebuild, if it would have lost too many clients; otherwise no row.';

COMMENT ON COLUMN pipeline.rejected_builds.profiles_load IS 'Load of customer_profiles.';

COMMENT ON COLUMN pipeline.rejected_builds.activity_load IS 'Load of customer_activity.';

COMMENT ON COLUMN pipeline.rejected_builds.labels_load IS 'Load of labels.';

COMMENT ON COLUMN pipeline.rejected_builds.error IS 'What would be lost, and what to do.';

CREATE VIEW pipeline.feature_sources AS
 WITH newest AS (
         SELECT feature_store_builds.build_id,
            feature_store_builds.built_at,
            feature_store_builds.known_at,
            feature_store_builds.kept_from,
            feature_store_builds.row_count,
            feature_store_builds.history_row_count,
            feature_store_builds.profiles_load,
            feature_store_builds.activity_load,
            feature_store_builds.labels_load
           FROM pipeline.feature_store_builds
          ORDER BY feature_store_builds.build_id DESC
         LIMIT 1
        ), published AS (
         SELECT max(loads.load_id) FILTER (WHERE (files.table_name = 'customer_profiles'::text)) AS profiles_load,
            max(loads.load_id) FILTER (WHERE (files.table_name = 'customer_activity'::text)) AS activity_load,
            max(loads.load_id) FILTER (WHERE (files.table_name = 'labels'::text)) AS labels_load,
            max(loads.published_at) AS published_at,
            ((count(*) = 3) AND (count(newest.build_id) < 3)) AS is_stale,
            COALESCE(bool_or(((newest.build_id IS NULL) AND (loads.decided_by !~~ 'ON_ANOMALY=%'::text))), false) AS is_approved
           FROM ((pipeline.loads
             JOIN pipeline.files ON ((loads.file_id = files.file_id)))
             LEFT JOIN newest ON ((((loads.load_id = newest.profiles_load) OR (loads.load_id = newest.activity_load)) OR (loads.load_id = newest.labels_load))))
          WHERE ((loads.status = 'published'::text) AND (files.table_name = ANY (ARRAY['customer_profiles'::text, 'customer_activity'::text, 'labels'::text])))
        )
 SELECT published.profiles_load,
    published.activity_load,
    published.labels_load,
    published.published_at,
    published.is_stale,
    published.is_approved,
    (rejected.error IS NOT NULL) AS is_rejected
   FROM (published
     LEFT JOIN pipeline.rejected_builds rejected ON (((published.profiles_load = rejected.profiles_load) AND (published.activity_load = rejected.activity_load) AND (published.labels_load = rejected.labels_load))));

COMMENT ON VIEW pipeline.feature_sources IS 'The published loads of the customer files, in one row.';

COMMENT ON COLUMN pipeline.feature_sources.profiles_load IS 'Load of customer_profiles.';

COMMENT ON COLUMN pipeline.feature_sources.activity_load IS 'Load of customer_activity.';

COMMENT ON COLUMN pipeline.feature_sources.labels_load IS 'Load of labels.';

COMMENT ON COLUMN pipeline.feature_sources.published_at IS 'When the newest of them was published.';

COMMENT ON COLUMN pipeline.feature_sources.is_stale IS 'Whether the newest build used other loads. Before all files have been published, nothing is stale.';

COMMENT ON COLUMN pipeline.feature_sources.is_approved IS 'Whether a person approved one of them that the newest build did not use.';

COMMENT ON COLUMN pipeline.feature_sources.is_rejected IS 'Whether the newest attempt used them and was rejected, because too many clients would be lost.';

ALTER TABLE pipeline.feature_store_builds ALTER COLUMN build_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pipeline.feature_store_builds_build_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pipeline.features_opened (
    opened_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE pipeline.features_opened IS 'One row, once the features have been opened to their readers.';

COMMENT ON COLUMN pipeline.features_opened.opened_at IS 'When.';

ALTER TABLE pipeline.files ALTER COLUMN file_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pipeline.files_file_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE pipeline.loads ALTER COLUMN load_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pipeline.loads_load_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW pipeline.published_sales_by_store AS
 SELECT files.file_month AS sale_month,
    sales_by_store.store_idx,
    sales_by_store.row_count,
    sales_by_store.min_idx,
    sales_by_store.total
   FROM ((pipeline.sales_by_store
     JOIN pipeline.loads ON ((sales_by_store.load_id = loads.load_id)))
     JOIN pipeline.files ON ((loads.file_id = files.file_id)))
  WHERE (loads.status = 'published'::text);

COMMENT ON VIEW pipeline.published_sales_by_store IS 'The sums of the published file of each month, by store.';

COMMENT ON COLUMN pipeline.published_sales_by_store.sale_month IS 'First day of the month.';

COMMENT ON COLUMN pipeline.published_sales_by_store.store_idx IS 'Store of the sales.';

COMMENT ON COLUMN pipeline.published_sales_by_store.row_count IS 'Number of sales.';

COMMENT ON COLUMN pipeline.published_sales_by_store.min_idx IS 'Smallest idx of the sales.';

COMMENT ON COLUMN pipeline.published_sales_by_store.total IS 'Exact sum of the sales.';

CREATE SEQUENCE pipeline.request_numbers
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE VIEW pipeline.stale_tables AS
 SELECT built_tables.table_name
   FROM (pipeline.feature_sources
     CROSS JOIN ( VALUES ('feature_history'::text), ('feature_store'::text)) built_tables(table_name))
  WHERE feature_sources.is_stale;

COMMENT ON VIEW pipeline.stale_tables IS 'Tables that were not built from the loads that are published now. A table whose files have never been published is not
stale.';

COMMENT ON COLUMN pipeline.stale_tables.table_name IS 'Table in public.';

CREATE TABLE public.customer_activity (
    idx integer NOT NULL,
    valid_from date NOT NULL,
    valid_to date,
    scd_a double precision,
    scd_b integer
)
WITH (vacuum_truncate=off);

ALTER TABLE ONLY public.customer_activity REPLICA IDENTITY FULL;

COMMENT ON TABLE public.customer_activity IS 'Activity of each client with the days on which it was valid, exactly as in customer_activity.csv.';

COMMENT ON COLUMN public.customer_activity.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.customer_activity.valid_from IS 'First day on which the row is valid.';

COMMENT ON COLUMN public.customer_activity.valid_to IS 'Day on which the row stopped being valid; null for the current row.';

COMMENT ON COLUMN public.customer_activity.scd_a IS 'Slowly changing attribute a.';

COMMENT ON COLUMN public.customer_activity.scd_b IS 'Slowly changing attribute b, a whole number.';

CREATE TABLE public.customer_profiles (
    idx integer NOT NULL,
    attr_a integer,
    attr_b text,
    attr_c text
)
WITH (vacuum_truncate=off);

ALTER TABLE ONLY public.customer_profiles REPLICA IDENTITY FULL;

COMMENT ON TABLE public.customer_profiles IS 'Profile of each client, exactly as in customer_profiles.csv.';

COMMENT ON COLUMN public.customer_profiles.idx IS 'Client.';

COMMENT ON COLUMN public.customer_profiles.attr_a IS 'Profile attribute a, a whole number.';

COMMENT ON COLUMN public.customer_profiles.attr_b IS 'Profile attribute b, one letter.';

COMMENT ON COLUMN public.customer_profiles.attr_c IS 'Profile attribute c, up to three characters; not part of the feature store.';

CREATE TABLE public.stores (
    idx integer NOT NULL,
    location text NOT NULL
);

COMMENT ON TABLE public.stores IS 'Every store that a published stores.csv had, with its newest location; stores are never deleted.';

COMMENT ON COLUMN public.stores.idx IS 'Store.';

COMMENT ON COLUMN public.stores.location IS 'Where the store is, by the newest stores.csv that has it.';

CREATE VIEW public.data_freshness AS
 WITH published AS (
         SELECT files.table_name,
            max(loads.published_at) AS loaded_at,
            (array_agg(loads.sha256 ORDER BY files.file_month DESC NULLS LAST))[1] AS file_version,
            max(loads.max_date) AS up_to,
            (sum(loads.row_count))::bigint AS row_count,
            string_agg(concat(to_char((files.file_month)::timestamp with time zone, 'YYYY-MM: '::text), files.difference), ' '::text ORDER BY files.file_month) FILTER (WHERE (files.difference IS NOT NULL)) AS difference
           FROM (pipeline.loads
             JOIN pipeline.files ON ((loads.file_id = files.file_id)))
          WHERE (loads.status = 'published'::text)
          GROUP BY files.table_name
        ), newest_build AS (
         SELECT feature_store_builds.built_at,
            feature_store_builds.known_at,
            feature_store_builds.row_count,
            feature_store_builds.history_row_count,
            activity.max_date,
            concat_ws(' '::text, profiles.sha256, activity.sha256, labels.sha256) AS file_version
           FROM (((pipeline.feature_store_builds
             LEFT JOIN pipeline.loads profiles ON ((feature_store_builds.profiles_load = profiles.load_id)))
             LEFT JOIN pipeline.loads activity ON ((feature_store_builds.activity_load = activity.load_id)))
             LEFT JOIN pipeline.loads labels ON ((feature_store_builds.labels_load = labels.load_id)))
          ORDER BY feature_store_builds.build_id DESC
         LIMIT 1
        ), known(table_name, loaded_at, file_version, up_to, row_count, difference) AS (
         SELECT published.table_name,
            published.loaded_at,
            published.file_version,
            published.up_to,
                CASE
                    WHEN (published.table_name = 'stores'::text) THEN ( SELECT count(*) AS count
                       FROM public.stores)
                    ELSE published.row_count
                END AS row_count,
            published.difference
           FROM published
        UNION ALL
         SELECT 'monthly_sales'::text AS table_name,
            published.loaded_at,
            published.file_version,
            published.up_to,
            ( SELECT count(*) AS count
                   FROM (pipeline.sales_by_store
                     JOIN pipeline.loads ON ((sales_by_store.load_id = loads.load_id)))
                  WHERE (loads.status = ANY (ARRAY['published'::text, 'retired'::text]))) AS row_count,
            published.difference
           FROM published
          WHERE (published.table_name = 'sales'::text)
        UNION ALL
         SELECT 'feature_history'::text AS table_name,
            newest_build.known_at AS loaded_at,
            newest_build.file_version,
            newest_build.max_date AS up_to,
            newest_build.history_row_count AS row_count,
            NULL::text AS difference
           FROM newest_build
        UNION ALL
         SELECT 'feature_store'::text AS table_name,
            newest_build.built_at AS loaded_at,
            newest_build.file_version,
            newest_build.max_date AS up_to,
            newest_build.row_count,
            NULL::text AS difference
           FROM newest_build
        )
 SELECT every_table.table_name,
        CASE
            WHEN (known.loaded_at IS NULL) THEN 'missing'::text
            WHEN (known.difference IS NOT NULL) THEN 'changed'::text
            WHEN (stale_tables.table_name IS NOT NULL) THEN 'stale'::text
            ELSE 'loaded'::text
        END AS status,
    known.loaded_at,
    known.file_version,
    known.up_to,
    known.row_count,
    (known.difference || ' To repair it, load the file again.'::text) AS error
   FROM ((( VALUES (1,'customer_profiles'::text), (2,'customer_activity'::text), (3,'labels'::text), (4,'stores'::text), (5,'sales'::text), (6,'monthly_sales'::text), (7,'feature_history'::text), (8,'feature_store'::text)) every_table("position", table_name)
     LEFT JOIN known ON ((every_table.table_name = known.table_name)))
     LEFT JOIN pipeline.stale_tables ON ((every_table.table_name = stale_tables.table_name)))
  ORDER BY every_table."position";

COMMENT ON VIEW public.data_freshness IS 'How fresh each table is: when it was last loaded, from which files, up to which day, with how many rows.';

COMMENT ON COLUMN public.data_freshness.table_name IS 'Table in public.';

COMMENT ON COLUMN public.data_freshness.status IS 'loaded; stale if it was built from customer files that have been replaced since; changed if the maintenance found other
rows than were published; missing before the first load.';

COMMENT ON COLUMN public.data_freshness.loaded_at IS 'When a load last published its rows; null before the first. For feature_history, its newest known_from or known_to.';

COMMENT ON COLUMN public.data_freshness.file_version IS 'SHA-256 of the file: for sales and monthly_sales of the newest month''s, for the features of the profiles, the
activity and the labels.';

COMMENT ON COLUMN public.data_freshness.up_to IS 'Latest day in the data; null where it has no days.';

COMMENT ON COLUMN public.data_freshness.row_count IS 'Rows that were loaded; null before the first load.';

COMMENT ON COLUMN public.data_freshness.error IS 'What was changed; null if nothing was.';

CREATE VIEW public.data_statistics AS
 SELECT files.table_name,
    files.file_month AS sale_month,
    column_profiles.column_name,
    loads.published_at,
    loads.row_count,
    loads.total,
    column_profiles.sample_rows,
    column_profiles.missing_values,
    column_profiles.distinct_values,
    column_profiles.smallest,
    column_profiles.lower_quartile,
    column_profiles.median,
    column_profiles.upper_quartile,
    column_profiles.largest,
    column_profiles.negative_values,
    column_profiles.negative_total,
    column_profiles.first_day,
    column_profiles.last_day,
    column_profiles.counts,
    loads.anomalies,
    loads.decided_by,
    (loads.status = 'published'::text) AS is_current
   FROM ((pipeline.column_profiles
     JOIN pipeline.loads ON ((column_profiles.load_id = loads.load_id)))
     JOIN pipeline.files ON ((loads.file_id = files.file_id)))
  WHERE (loads.published_at IS NOT NULL);

COMMENT ON VIEW public.data_statistics IS 'Figures of each column of every file that was published, now or before: one row per table, load and column.';

COMMENT ON COLUMN public.data_statistics.table_name IS 'Table in public.';

COMMENT ON COLUMN public.data_statistics.sale_month IS 'Month of the file, for sales.';

COMMENT ON COLUMN public.data_statistics.column_name IS 'Column.';

COMMENT ON COLUMN public.data_statistics.published_at IS 'When the file was published.';

COMMENT ON COLUMN public.data_statistics.row_count IS 'Rows of the file.';

COMMENT ON COLUMN public.data_statistics.total IS 'Exact sum of the sales of the file.';

COMMENT ON COLUMN public.data_statistics.sample_rows IS 'Rows that the figures to the right are of: all up to 50,000, above that a sample of about so many.';

COMMENT ON COLUMN public.data_statistics.missing_values IS 'Rows without a value.';

COMMENT ON COLUMN public.data_statistics.distinct_values IS 'Different values.';

COMMENT ON COLUMN public.data_statistics.smallest IS 'Smallest number.';

COMMENT ON COLUMN public.data_statistics.lower_quartile IS 'A quarter of the numbers are no greater.';

COMMENT ON COLUMN public.data_statistics.median IS 'Half of the numbers are no greater.';

COMMENT ON COLUMN public.data_statistics.upper_quartile IS 'Three quarters of the numbers are no greater.';

COMMENT ON COLUMN public.data_statistics.largest IS 'Largest number.';

COMMENT ON COLUMN public.data_statistics.negative_values IS 'Rows with a number below 0: in sales.value, refunds.';

COMMENT ON COLUMN public.data_statistics.negative_total IS 'Sum of the numbers below 0.';

COMMENT ON COLUMN public.data_statistics.first_day IS 'First day.';

COMMENT ON COLUMN public.data_statistics.last_day IS 'Last day.';

COMMENT ON COLUMN public.data_statistics.counts IS 'Rows of each value, where there are few.';

COMMENT ON COLUMN public.data_statistics.anomalies IS 'What was unusual about the file; null if nothing was.';

COMMENT ON COLUMN public.data_statistics.decided_by IS 'Who published it all the same.';

COMMENT ON COLUMN public.data_statistics.is_current IS 'Whether its rows are in the table now.';

CREATE VIEW public.feature_rows WITH (security_invoker='true') AS
 SELECT idx,
    valid_from,
    valid_to,
    known_from,
    known_to,
    ROW(idx, attr_a, attr_b, scd_a, scd_b, label)::public.feature_store AS features
   FROM public.feature_history;

COMMENT ON VIEW public.feature_rows IS 'The rows of feature_history, each with its features as a row of feature_store. The rebuild of feature_store,
feature_store_as_of and feature_store_at read it.';

COMMENT ON COLUMN public.feature_rows.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.feature_rows.valid_from IS 'First day on which the row holds.';

COMMENT ON COLUMN public.feature_rows.valid_to IS 'Day on which the next row of the client begins; null for the last row.';

COMMENT ON COLUMN public.feature_rows.known_from IS 'feature_history.known_from';

COMMENT ON COLUMN public.feature_rows.known_to IS 'feature_history.known_to; null while the row is known.';

COMMENT ON COLUMN public.feature_rows.features IS 'The row, as feature_store shows the last one.';

CREATE TABLE public.labels (
    idx integer NOT NULL,
    label integer NOT NULL,
    CONSTRAINT "the label is 0 or 1" CHECK ((label = ANY (ARRAY[0, 1])))
)
WITH (vacuum_truncate=off);

ALTER TABLE ONLY public.labels REPLICA IDENTITY FULL;

COMMENT ON TABLE public.labels IS 'The label that a model learns to predict, exactly as in labels.csv.';

COMMENT ON COLUMN public.labels.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.labels.label IS 'The label, 0 or 1.';

CREATE VIEW public.month_status AS
 WITH newest_attempt AS (
         SELECT DISTINCT ON (loads.file_id) loads.load_id,
            loads.file_id,
            loads.dag_id,
            loads.run_id,
            loads.source_url,
            loads.status,
            loads.error,
            loads.anomalies,
            loads.decided_by,
            loads.decided_at,
            loads.decide_until,
            loads.wait_until,
            loads.request_number,
            loads.started_at,
            loads.requested_at,
            loads.published_at,
            loads.updated_at,
            loads.etag,
            loads.last_modified,
            loads.bytes,
            loads.sha256,
            loads.row_count,
            loads.max_date,
            loads.total,
            loads.staged_table,
            files.file_month,
            files.difference
           FROM (pipeline.files
             JOIN pipeline.loads ON ((files.file_id = loads.file_id)))
          WHERE (files.table_name = 'sales'::text)
          ORDER BY loads.file_id, loads.load_id DESC
        ), newest_stores AS (
         SELECT DISTINCT ON (newest_attempt.file_id) newest_attempt.file_id AS month_file_id,
            loads.load_id,
            loads.file_id,
            loads.dag_id,
            loads.run_id,
            loads.source_url,
            loads.status,
            loads.error,
            loads.anomalies,
            loads.decided_by,
            loads.decided_at,
            loads.decide_until,
            loads.wait_until,
            loads.request_number,
            loads.started_at,
            loads.requested_at,
            loads.published_at,
            loads.updated_at,
            loads.etag,
            loads.last_modified,
            loads.bytes,
            loads.sha256,
            loads.row_count,
            loads.max_date,
            loads.total,
            loads.staged_table
           FROM ((newest_attempt
             JOIN pipeline.loads ON (((newest_attempt.dag_id = loads.dag_id) AND (newest_attempt.run_id = loads.run_id) AND (newest_attempt.load_id < loads.load_id))))
             JOIN pipeline.files ON ((loads.file_id = files.file_id)))
          WHERE (files.table_name = 'stores'::text)
          ORDER BY newest_attempt.file_id, loads.load_id DESC
        ), attempt AS (
         SELECT newest_attempt.file_id,
            newest_attempt.file_month,
            newest_attempt.difference,
            newest_attempt.anomalies,
            newest_attempt.decide_until,
            COALESCE(newest_stores.updated_at, newest_attempt.updated_at) AS updated_at,
            COALESCE(newest_attempt.error, newest_stores.error) AS error,
                CASE
                    WHEN (('rejected'::text = newest_attempt.status) OR ('rejected'::text = newest_stores.status)) THEN 'rejected'::text
                    WHEN (('failed'::text = newest_attempt.status) OR ('failed'::text = newest_stores.status)) THEN 'failed'::text
                    WHEN ((newest_attempt.decide_until < now()) AND (newest_attempt.status = 'pending_approval'::text)) THEN 'failed'::text
                    WHEN (newest_attempt.status = ANY (ARRAY['pending_approval'::text, 'retired'::text])) THEN newest_attempt.status
                    WHEN (newest_attempt.wait_until > now()) THEN 'waiting'::text
                    WHEN (newest_attempt.status = 'waiting'::text) THEN 'failed'::text
                    WHEN (newest_attempt.difference IS NOT NULL) THEN 'changed'::text
                    WHEN (newest_attempt.status = ANY (ARRAY['published'::text, 'superseded'::text])) THEN 'loaded'::text
                    WHEN ((newest_attempt.status = 'loading'::text) AND (NOT pipeline.is_running(newest_attempt.load_id))) THEN 'failed'::text
                    WHEN ((newest_stores.status = 'loading'::text) AND (NOT pipeline.is_running(newest_stores.load_id))) THEN 'failed'::text
                    ELSE 'loading'::text
                END AS status
           FROM (newest_attempt
             LEFT JOIN newest_stores ON ((newest_attempt.file_id = newest_stores.month_file_id)))
        )
 SELECT attempt.file_month AS sale_month,
    attempt.status,
    published.row_count,
    published.total,
    published.published_at AS loaded_at,
    published.sha256 AS file_version,
    attempt.updated_at AS newest_attempt_at,
        CASE
            WHEN (attempt.status = 'changed'::text) THEN (attempt.difference || ' To repair it, load the month again.'::text)
            WHEN (attempt.status = ANY (ARRAY['waiting'::text, 'rejected'::text])) THEN attempt.error
            WHEN (attempt.status = 'pending_approval'::text) THEN attempt.anomalies
            WHEN ((attempt.status = 'failed'::text) AND (attempt.error IS NOT NULL)) THEN attempt.error
            WHEN ((attempt.status = 'failed'::text) AND (attempt.decide_until IS NOT NULL)) THEN concat('Nobody decided until ', attempt.decide_until, '. Clear the run to load the file again.')
            WHEN (attempt.status = 'failed'::text) THEN 'The process that loaded the file was killed.'::text
            ELSE NULL::text
        END AS error,
        CASE
            WHEN (attempt.status = ANY (ARRAY['loaded'::text, 'changed'::text])) THEN (((published.anomalies || ' (published by '::text) || published.decided_by) || ')'::text)
            ELSE attempt.anomalies
        END AS anomalies
   FROM (attempt
     LEFT JOIN pipeline.loads published ON (((attempt.file_id = published.file_id) AND (published.status = 'published'::text))))
  ORDER BY attempt.file_month;

COMMENT ON VIEW public.month_status IS 'Each month of sales that was ever attempted: how its newest attempt stands, and what is loaded.';

COMMENT ON COLUMN public.month_status.sale_month IS 'First day of the month.';

COMMENT ON COLUMN public.month_status.status IS 'How the newest attempt stands: loaded; loading; waiting for a late file; pending_approval while a person decides on an
unusual file; rejected; failed. Of a loaded month: changed if the maintenance found other rows than were published, and
retired if its rows were taken out. Otherwise the rows of the last good load stay.';

COMMENT ON COLUMN public.month_status.row_count IS 'Sales that are loaded; null if there are none.';

COMMENT ON COLUMN public.month_status.total IS 'Sum of the sales that are loaded.';

COMMENT ON COLUMN public.month_status.loaded_at IS 'When they were published.';

COMMENT ON COLUMN public.month_status.file_version IS 'SHA-256 of their file.';

COMMENT ON COLUMN public.month_status.newest_attempt_at IS 'When the newest attempt came to its status.';

COMMENT ON COLUMN public.month_status.error IS 'Why the newest attempt is waiting, pending, rejected or failed, or what was changed.';

COMMENT ON COLUMN public.month_status.anomalies IS 'What is unusual about the file, and who published it all the same; null if nothing is.';

CREATE TABLE public.monthly_sales (
    store_idx integer NOT NULL,
    location text NOT NULL,
    sale_month date NOT NULL,
    value numeric NOT NULL,
    CONSTRAINT monthly_sales_sale_month_check CHECK ((EXTRACT(day FROM sale_month) = (1)::numeric))
)
WITH (vacuum_truncate=off);

COMMENT ON TABLE public.monthly_sales IS 'Sum of the sales of each store and month; a store without sales in a month has no row for it. A load deletes and
inserts the rows of its month, so a foreign key onto this table stops it: refer to stores instead.';

COMMENT ON COLUMN public.monthly_sales.store_idx IS 'Store: stores.idx.';

COMMENT ON COLUMN public.monthly_sales.location IS 'Where the store was when the month was last published.';

COMMENT ON COLUMN public.monthly_sales.sale_month IS 'First day of the month.';

COMMENT ON COLUMN public.monthly_sales.value IS 'Exact sum of sales.value.';

CREATE TABLE staging.customer_activity (
    idx integer NOT NULL,
    valid_from date NOT NULL,
    valid_to date,
    scd_a double precision,
    scd_b integer
);

COMMENT ON TABLE staging.customer_activity IS 'The columns of customer_activity.csv. Each load has a table like it.';

COMMENT ON COLUMN staging.customer_activity.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN staging.customer_activity.valid_from IS 'First day on which the row is valid.';

COMMENT ON COLUMN staging.customer_activity.valid_to IS 'Day on which the row stopped being valid; null for the current row.';

COMMENT ON COLUMN staging.customer_activity.scd_a IS 'Slowly changing attribute a.';

COMMENT ON COLUMN staging.customer_activity.scd_b IS 'Slowly changing attribute b, a whole number.';

CREATE TABLE staging.customer_profiles (
    idx integer NOT NULL,
    attr_a integer,
    attr_b text,
    attr_c text
);

COMMENT ON TABLE staging.customer_profiles IS 'The columns of customer_profiles.csv. Each load has a table like it.';

COMMENT ON COLUMN staging.customer_profiles.idx IS 'Client.';

COMMENT ON COLUMN staging.customer_profiles.attr_a IS 'Profile attribute a, a whole number.';

COMMENT ON COLUMN staging.customer_profiles.attr_b IS 'Profile attribute b, one letter.';

COMMENT ON COLUMN staging.customer_profiles.attr_c IS 'Profile attribute c, up to three characters; not part of the feature store.';

CREATE TABLE staging.labels (
    idx integer NOT NULL,
    label integer NOT NULL,
    CONSTRAINT "the label is 0 or 1" CHECK ((label = ANY (ARRAY[0, 1])))
);

COMMENT ON TABLE staging.labels IS 'The columns of labels.csv. Each load has a table like it.';

COMMENT ON COLUMN staging.labels.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN staging.labels.label IS 'The label, 0 or 1.';

CREATE TABLE staging.sales (
    idx integer NOT NULL,
    value numeric NOT NULL,
    date date NOT NULL,
    store_idx integer NOT NULL
);

COMMENT ON TABLE staging.sales IS 'The columns of sales.csv. Each load has a table like it.';

COMMENT ON COLUMN staging.sales.idx IS 'Index of the sale, as in the file.';

COMMENT ON COLUMN staging.sales.value IS 'Amount sold that day, exact; negative for a refund.';

COMMENT ON COLUMN staging.sales.date IS 'Day of the sale.';

COMMENT ON COLUMN staging.sales.store_idx IS 'Store of the sale: stores.idx.';

CREATE TABLE staging.stores (
    idx integer NOT NULL,
    location text NOT NULL
);

COMMENT ON TABLE staging.stores IS 'The columns of stores.csv. Each load has a table like it.';

COMMENT ON COLUMN staging.stores.idx IS 'Store.';

COMMENT ON COLUMN staging.stores.location IS 'Where the store is, by the newest stores.csv that has it.';

ALTER TABLE ONLY public.feature_history ATTACH PARTITION partitions.feature_history_known FOR VALUES IN (NULL);

ALTER TABLE ONLY public.feature_history ATTACH PARTITION partitions.feature_history_superseded DEFAULT;

ALTER TABLE ONLY public.sales ATTACH PARTITION partitions.sales_before_all_months FOR VALUES FROM (MINVALUE) TO ('0001-01-01');

ALTER TABLE ONLY partitions.feature_history_known
    ADD CONSTRAINT feature_history_known_pkey PRIMARY KEY (idx, valid_from);

ALTER TABLE ONLY pipeline.anomaly_checks
    ADD CONSTRAINT anomaly_checks_pkey PRIMARY KEY (load_id, measure);

ALTER TABLE ONLY pipeline.column_profiles
    ADD CONSTRAINT column_profiles_pkey PRIMARY KEY (load_id, column_name);

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_pkey PRIMARY KEY (build_id);

ALTER TABLE ONLY pipeline.files
    ADD CONSTRAINT files_pkey PRIMARY KEY (file_id);

ALTER TABLE ONLY pipeline.files
    ADD CONSTRAINT files_table_name_file_month_key UNIQUE NULLS NOT DISTINCT (table_name, file_month);

ALTER TABLE ONLY pipeline.loads
    ADD CONSTRAINT loads_pkey PRIMARY KEY (load_id);

ALTER TABLE ONLY pipeline.sales_by_store
    ADD CONSTRAINT sales_by_store_pkey PRIMARY KEY (load_id, store_idx);

ALTER TABLE ONLY pipeline.sources
    ADD CONSTRAINT sources_pkey PRIMARY KEY (table_name);

ALTER TABLE ONLY pipeline.training_sets
    ADD CONSTRAINT training_sets_pkey PRIMARY KEY (set_name);

ALTER TABLE ONLY public.feature_store
    ADD CONSTRAINT feature_store_pkey PRIMARY KEY (idx);

ALTER TABLE ONLY public.monthly_sales
    ADD CONSTRAINT monthly_sales_pkey PRIMARY KEY (sale_month, store_idx);

ALTER TABLE ONLY public.stores
    ADD CONSTRAINT stores_pkey PRIMARY KEY (idx);

CREATE INDEX feature_history_superseded_idx ON partitions.feature_history_superseded USING btree (idx, valid_from);

CREATE INDEX feature_store_builds_known_at ON pipeline.feature_store_builds USING btree (known_at);

CREATE INDEX loads_of_file ON pipeline.loads USING btree (file_id);

CREATE UNIQUE INDEX loads_published ON pipeline.loads USING btree (file_id) WHERE (status = 'published'::text);

ALTER TABLE ONLY pipeline.anomaly_checks
    ADD CONSTRAINT anomaly_checks_load_id_fkey FOREIGN KEY (load_id) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.column_profiles
    ADD CONSTRAINT column_profiles_load_id_fkey FOREIGN KEY (load_id) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_activity_load_fkey FOREIGN KEY (activity_load) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_labels_load_fkey FOREIGN KEY (labels_load) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_profiles_load_fkey FOREIGN KEY (profiles_load) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.files
    ADD CONSTRAINT files_table_name_fkey FOREIGN KEY (table_name) REFERENCES pipeline.sources(table_name);

ALTER TABLE ONLY pipeline.loads
    ADD CONSTRAINT loads_file_id_fkey FOREIGN KEY (file_id) REFERENCES pipeline.files(file_id);

ALTER TABLE ONLY pipeline.rejected_builds
    ADD CONSTRAINT rejected_builds_activity_load_fkey FOREIGN KEY (activity_load) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.rejected_builds
    ADD CONSTRAINT rejected_builds_labels_load_fkey FOREIGN KEY (labels_load) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.rejected_builds
    ADD CONSTRAINT rejected_builds_profiles_load_fkey FOREIGN KEY (profiles_load) REFERENCES pipeline.loads(load_id);

ALTER TABLE ONLY pipeline.sources
    ADD CONSTRAINT sources_published_with_fkey FOREIGN KEY (published_with) REFERENCES pipeline.sources(table_name);

REVOKE CONNECT,TEMPORARY ON DATABASE companydata FROM PUBLIC;
GRANT CONNECT ON DATABASE companydata TO PUBLIC;
GRANT CONNECT ON DATABASE companydata TO ds_user_role;
GRANT CONNECT,TEMPORARY ON DATABASE companydata TO mle_user_role;
GRANT CONNECT,TEMPORARY ON DATABASE companydata TO pipeline;
GRANT CREATE ON DATABASE companydata TO pipeline_owner;

GRANT USAGE ON SCHEMA pipeline TO pipeline;

GRANT USAGE ON SCHEMA public TO ds_user_role;
GRANT USAGE ON SCHEMA public TO pipeline;
GRANT ALL ON SCHEMA public TO mle_user_role;
GRANT ALL ON SCHEMA public TO pipeline_owner;

GRANT USAGE ON SCHEMA staging TO pipeline;

REVOKE ALL ON FUNCTION pg_catalog.lo_creat(integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.lo_creat(integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.lo_creat(integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.lo_creat(integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.lo_create(oid) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.lo_create(oid) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.lo_create(oid) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.lo_create(oid) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.lo_from_bytea(oid, bytea) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_lock_shared(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_advisory_xact_lock_shared(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message bytea, flush boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message bytea, flush boolean) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message bytea, flush boolean) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message bytea, flush boolean) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message text, flush boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message text, flush boolean) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message text, flush boolean) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_logical_emit_message(transactional boolean, prefix text, message text, flush boolean) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_lock_shared(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(bigint) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(bigint) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(bigint) TO pipeline_owner;

REVOKE ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(integer, integer) FROM PUBLIC;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(integer, integer) TO mle_user_role;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(integer, integer) TO pipeline;
GRANT ALL ON FUNCTION pg_catalog.pg_try_advisory_xact_lock_shared(integer, integer) TO pipeline_owner;

REVOKE ALL ON FUNCTION pipeline.begin_load(table_name text, file_month date, source_url text, dag_id text, run_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.begin_load(table_name text, file_month date, source_url text, dag_id text, run_id text) TO pipeline;

REVOKE ALL ON FUNCTION pipeline.drop_staged(load bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.drop_staged(load bigint) TO pipeline;

GRANT SELECT ON TABLE pipeline.files TO pipeline;

GRANT UPDATE(compared_at) ON TABLE pipeline.files TO pipeline;

GRANT UPDATE(difference) ON TABLE pipeline.files TO pipeline;

GRANT SELECT ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(status) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(error) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(anomalies) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(decided_by) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(decided_at) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(decide_until) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(wait_until) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(request_number) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(requested_at) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(published_at) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(updated_at) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(etag) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(last_modified) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(bytes) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(sha256) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(row_count) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(max_date) ON TABLE pipeline.loads TO pipeline;

GRANT UPDATE(total) ON TABLE pipeline.loads TO pipeline;

GRANT SELECT ON TABLE pipeline.sources TO pipeline;

REVOKE ALL ON FUNCTION pipeline.create_staged(load bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.create_staged(load bigint) TO pipeline;

REVOKE ALL ON FUNCTION pipeline.open_feature_store() FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.open_feature_store() TO pipeline;

REVOKE ALL ON FUNCTION pipeline.record_training_set(name text, query text, known_at timestamp with time zone, row_count bigint, hash text) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.record_training_set(name text, query text, known_at timestamp with time zone, row_count bigint, hash text) TO ds_user_role;
GRANT ALL ON FUNCTION pipeline.record_training_set(name text, query text, known_at timestamp with time zone, row_count bigint, hash text) TO mle_user_role;

REVOKE ALL ON FUNCTION pipeline.training_moment(known_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.training_moment(known_at timestamp with time zone) TO ds_user_role;
GRANT ALL ON FUNCTION pipeline.training_moment(known_at timestamp with time zone) TO mle_user_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.feature_store TO pipeline;

GRANT ALL ON FUNCTION public.feature_store_as_of(day date, known_at timestamp with time zone) TO mle_user_role;
GRANT ALL ON FUNCTION public.feature_store_as_of(day date, known_at timestamp with time zone) TO ds_user_role;

GRANT ALL ON FUNCTION public.feature_store_at(idx integer[], day date[], known_at timestamp with time zone) TO mle_user_role;
GRANT ALL ON FUNCTION public.feature_store_at(idx integer[], day date[], known_at timestamp with time zone) TO ds_user_role;

GRANT SELECT ON TABLE public.training_sets TO ds_user_role;
GRANT SELECT,REFERENCES,TRIGGER,TRUNCATE,MAINTAIN ON TABLE public.training_sets TO mle_user_role;

GRANT ALL ON FUNCTION public.make_training_set(name text, query text, known_at timestamp with time zone) TO mle_user_role;
GRANT ALL ON FUNCTION public.make_training_set(name text, query text, known_at timestamp with time zone) TO ds_user_role;

GRANT ALL ON FUNCTION public.repeat_training_set(name text) TO mle_user_role;
GRANT ALL ON FUNCTION public.repeat_training_set(name text) TO ds_user_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.feature_history TO pipeline;

GRANT SELECT ON TABLE public.sales TO ds_user_role;
GRANT ALL ON TABLE public.sales TO mle_user_role;
GRANT SELECT,INSERT,DELETE,MAINTAIN ON TABLE public.sales TO pipeline;

GRANT MAINTAIN ON TABLE partitions.sales_before_all_months TO pipeline;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE pipeline.anomaly_checks TO pipeline;

GRANT SELECT,INSERT,DELETE ON TABLE pipeline.sales_by_store TO pipeline;

GRANT SELECT ON TABLE pipeline.approval_requests TO pipeline;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE pipeline.client_hashes TO pipeline;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE pipeline.column_profiles TO pipeline;

GRANT SELECT,INSERT ON TABLE pipeline.feature_store_builds TO pipeline;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE pipeline.rejected_builds TO pipeline;

GRANT SELECT ON TABLE pipeline.feature_sources TO pipeline;

GRANT SELECT ON TABLE pipeline.published_sales_by_store TO pipeline;

GRANT USAGE ON SEQUENCE pipeline.request_numbers TO pipeline;

GRANT SELECT ON TABLE pipeline.stale_tables TO pipeline;

GRANT SELECT ON TABLE public.customer_activity TO ds_user_role;
GRANT ALL ON TABLE public.customer_activity TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.customer_activity TO pipeline;

GRANT SELECT ON TABLE public.customer_profiles TO ds_user_role;
GRANT ALL ON TABLE public.customer_profiles TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.customer_profiles TO pipeline;

GRANT SELECT ON TABLE public.stores TO ds_user_role;
GRANT ALL ON TABLE public.stores TO mle_user_role;
GRANT SELECT,INSERT,UPDATE ON TABLE public.stores TO pipeline;

GRANT SELECT ON TABLE public.data_freshness TO ds_user_role;
GRANT ALL ON TABLE public.data_freshness TO mle_user_role;
GRANT SELECT ON TABLE public.data_freshness TO pipeline;

GRANT SELECT ON TABLE public.data_statistics TO ds_user_role;
GRANT ALL ON TABLE public.data_statistics TO mle_user_role;

GRANT SELECT ON TABLE public.feature_rows TO ds_user_role;
GRANT ALL ON TABLE public.feature_rows TO mle_user_role;
GRANT SELECT ON TABLE public.feature_rows TO pipeline;

GRANT SELECT ON TABLE public.labels TO ds_user_role;
GRANT ALL ON TABLE public.labels TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.labels TO pipeline;

GRANT SELECT ON TABLE public.month_status TO ds_user_role;
GRANT ALL ON TABLE public.month_status TO mle_user_role;
GRANT SELECT ON TABLE public.month_status TO pipeline;

GRANT SELECT ON TABLE public.monthly_sales TO ds_user_role;
GRANT ALL ON TABLE public.monthly_sales TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.monthly_sales TO pipeline;

ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT ALL ON SEQUENCES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT ALL ON SEQUENCES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT ALL ON SEQUENCES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE pipeline_owner IN SCHEMA public GRANT ALL ON SEQUENCES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT ALL ON FUNCTIONS TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT ALL ON FUNCTIONS TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT ALL ON FUNCTIONS TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE pipeline_owner IN SCHEMA public GRANT ALL ON FUNCTIONS TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT SELECT ON TABLES TO ds_user_role;
ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT ALL ON TABLES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT SELECT ON TABLES TO ds_user_role;
ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT ALL ON TABLES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT ALL ON TABLES TO mle_user_role;
ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT SELECT ON TABLES TO ds_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE pipeline_owner IN SCHEMA public GRANT SELECT ON TABLES TO ds_user_role;
ALTER DEFAULT PRIVILEGES FOR ROLE pipeline_owner IN SCHEMA public GRANT ALL ON TABLES TO mle_user_role;

CREATE EVENT TRIGGER foreign_keys_without_casts ON ddl_command_end
         WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE')
   EXECUTE FUNCTION migrations.reject_foreign_keys_with_casts();
