-- What `alembic upgrade head` makes, as pg_dump of PostgreSQL 18 writes it. `make docs` renews this file: read its
-- diff, do not edit it.

CREATE ROLE ds_user;
ALTER ROLE ds_user WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE ds_user_role;
ALTER ROLE ds_user_role WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE mle_user;
ALTER ROLE mle_user WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE mle_user_role;
ALTER ROLE mle_user_role WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE pipeline;
ALTER ROLE pipeline WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS;
GRANT ds_user_role TO ds_user WITH INHERIT TRUE GRANTED BY admin;
GRANT mle_user_role TO mle_user WITH INHERIT TRUE GRANTED BY admin;

CREATE SCHEMA partitions;

COMMENT ON SCHEMA partitions IS 'Monthly partitions of public.sales; read them through that table.';

CREATE SCHEMA pipeline;

COMMENT ON SCHEMA pipeline IS 'What the SQL files under sql/ call.';

CREATE SCHEMA staging;

COMMENT ON SCHEMA staging IS 'Files as they were downloaded, before anything is published.';

CREATE FUNCTION pipeline.begin_staging(table_name text, sale_month date) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    declare
        suffix constant text := to_char(sale_month, 'YYYY_MM');
        staged text := concat_ws('_', table_name, suffix);
        -- Read from the catalog, because LIKE would lock public.sales until the file has come, and with it every
        -- re-load of another month.
        columns constant text := (
            select string_agg(
                concat_ws(
                    ' ', quote_ident(attname), format_type(atttypid, atttypmod),
                    case when attnotnull then 'not null' end, 'default ' || pg_get_expr(adbin, adrelid)
                ),
                ', ' order by attnum
            )
            from pg_attribute
            left join pg_attrdef on adrelid = attrelid and adnum = attnum
            where attrelid = 'public.sales'::regclass and attnum > 0 and not attisdropped
        );
    begin
        -- Of two runs that stage the same file the later one waits here, and then has the newer file.
        if table_name <> 'sales' then
            execute format('truncate staging.%I', staged);
            return staged;
        end if;
        perform pg_advisory_xact_lock(hashtext('pipeline.begin_staging'), sale_month - date '2000-01-01');
        staged := staged || '_incoming';
        execute format(
            'create table staging.%I (%s, constraint %I check (date >= %L and date < %L))',
            staged, columns, 'dated in ' || to_char(sale_month, 'YYYY-MM'), sale_month,
            (sale_month + interval '1 month')::date
        );
        return staged;
    end
    $$;

COMMENT ON FUNCTION pipeline.begin_staging(table_name text, sale_month date) IS 'Makes or empties the table in staging that a file is copied into, and returns its name.';

CREATE FUNCTION pipeline.delete_month_of_sales(sale_month date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
    declare
        old constant text := 'partitions.' || quote_ident('sales_' || to_char(sale_month, 'YYYY_MM'));
    begin
        if to_regclass(old) is not null then
            -- Autovacuum gives way only a second after it is asked to: asked before readers have to wait. The parent
            -- comes first, as for everybody who alters both.
            lock table only public.sales in share update exclusive mode;
            execute format('lock table %s in share update exclusive mode', old);
            execute format('drop table %s', old);
        end if;
    end
    $$;

COMMENT ON FUNCTION pipeline.delete_month_of_sales(sale_month date) IS 'Drops the month''s partition; waits for readers of sales for 3 seconds at most, then fails.';

CREATE FUNCTION pipeline.discard_staged(table_name text, month date) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        declare
            staged constant text := format(
                'staging.%I', concat_ws('_', discard_staged.table_name, to_char(month, 'YYYY_MM'))
            );
            last_outcome text;
        begin
            -- Locked before the ledger is asked: another run may be staging, whose rows are still to be published.
            execute format('lock table %s in access exclusive mode', staged);
            select outcome into last_outcome
            from pipeline.file_loads as loads
            where
                loads.table_name = discard_staged.table_name
                and loads.sale_month is not distinct from month
                and loads.row_count is not null
            order by loads.load_id desc
            limit 1;
            if last_outcome = 'published' then
                execute format('truncate %s', staged);
            end if;
        end
        $$;

COMMENT ON FUNCTION pipeline.discard_staged(table_name text, month date) IS 'Empties the staging of a table, of a month where it has one, if what it holds is published.';

CREATE FUNCTION pipeline.end_staging(table_name text, sale_month date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET default_statistics_target TO '10'
    AS $$
    declare
        staged constant text := concat_ws('_', table_name, to_char(sale_month, 'YYYY_MM'));
    begin
        if table_name = 'sales' then
            if to_regclass(format('staging.%I', staged)) is not null then
                execute format('drop table staging.%I', staged);
            end if;
            execute format('alter table staging.%I rename to %I', staged || '_incoming', staged);
            execute format('alter table staging.%I inherit staging.sales', staged);
            -- The next steps come before autovacuum, and would sort where they should hash. A small sample will do.
            execute format('analyze staging.%I', staged);
        end if;
    end
    $$;

COMMENT ON FUNCTION pipeline.end_staging(table_name text, sale_month date) IS 'Puts a month of sales that was just copied in the place of what was staged for that month before.';

CREATE FUNCTION pipeline.insert_month_of_sales(sale_month date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    declare
        staged constant text := 'sales_' || to_char(sale_month, 'YYYY_MM');
    begin
        if exists (
            select
            from (
                select attname, format_type(atttypid, atttypmod)
                from pg_attribute
                where
                    attrelid in ('public.sales'::regclass, format('staging.%I', staged)::regclass)
                    and attnum > 0
                    and not attisdropped
            ) as columns (name, type)
            group by name, type
            having count(*) <> 2
        ) then
            raise exception 'sales of %: public.sales has got other columns since the month was staged, so the month'
                ' stays as it was. Clear this run from its staging tasks on.', sale_month
                using errcode = 'check_violation';
        end if;
        -- Its rows are read and written through public.sales alone.
        execute format('revoke all on table staging.%I from pipeline', staged);
        execute format('alter table staging.%I set schema partitions', staged);
        execute format(
            'alter table public.sales attach partition partitions.%I for values from (%L) to (%L)',
            staged, sale_month, (sale_month + interval '1 month')::date
        );
        execute format(
            'alter table partitions.%I drop constraint %I', staged, 'dated in ' || to_char(sale_month, 'YYYY-MM')
        );
    end
    $$;

COMMENT ON FUNCTION pipeline.insert_month_of_sales(sale_month date) IS 'Attaches the staged month to sales as its partition.';

CREATE TABLE pipeline.file_loads (
    load_id bigint NOT NULL,
    table_name text NOT NULL,
    sale_month date,
    address text NOT NULL,
    etag text,
    last_modified timestamp with time zone,
    bytes bigint,
    sha256 text,
    row_count bigint,
    last_date date,
    total numeric,
    aggregated_at timestamp with time zone,
    dag_run text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    outcome text NOT NULL,
    problem text,
    CONSTRAINT file_loads_outcome_check CHECK ((outcome = ANY (ARRAY['staged'::text, 'checked'::text, 'published'::text, 'replaced'::text, 'refused'::text, 'failed'::text])))
);

COMMENT ON TABLE pipeline.file_loads IS 'Every load of a source file, one row an attempt, written with its rows.';

COMMENT ON COLUMN pipeline.file_loads.load_id IS 'The load, as its run hands it from step to step.';

COMMENT ON COLUMN pipeline.file_loads.table_name IS 'Table in public that the file is for.';

COMMENT ON COLUMN pipeline.file_loads.sale_month IS 'Month of the run; null for the customer files.';

COMMENT ON COLUMN pipeline.file_loads.address IS 'Where the file was read.';

COMMENT ON COLUMN pipeline.file_loads.etag IS 'ETag that the server sent.';

COMMENT ON COLUMN pipeline.file_loads.last_modified IS 'Last-Modified that the server sent.';

COMMENT ON COLUMN pipeline.file_loads.bytes IS 'Length of the CSV text.';

COMMENT ON COLUMN pipeline.file_loads.sha256 IS 'SHA-256 of the CSV text: the version of the file.';

COMMENT ON COLUMN pipeline.file_loads.row_count IS 'Rows in the file, its header not counted.';

COMMENT ON COLUMN pipeline.file_loads.last_date IS 'Latest day in the file; null where it has no days.';

COMMENT ON COLUMN pipeline.file_loads.total IS 'Sum of the month''s sales, set when the month is aggregated.';

COMMENT ON COLUMN pipeline.file_loads.aggregated_at IS 'When the month was aggregated into monthly_sales.';

COMMENT ON COLUMN pipeline.file_loads.dag_run IS 'DAG and run that loaded the file.';

COMMENT ON COLUMN pipeline.file_loads.started_at IS 'When the server began to send the file; of a load that failed, when the load began.';

COMMENT ON COLUMN pipeline.file_loads.finished_at IS 'When the load came to its present outcome.';

COMMENT ON COLUMN pipeline.file_loads.outcome IS 'staged, checked, published; replaced: staged again before it was published; refused: the file breaks the contract; failed: a network or server fault, tried again.';

COMMENT ON COLUMN pipeline.file_loads.problem IS 'Why the load was refused, failed, or was published without effect.';

CREATE VIEW pipeline.current_loads AS
 SELECT DISTINCT ON (table_name,
        CASE table_name
            WHEN 'sales'::text THEN sale_month
            ELSE NULL::date
        END) load_id,
    table_name,
    sale_month,
    sha256,
    row_count,
    last_date,
    total,
    started_at,
    finished_at,
    aggregated_at
   FROM pipeline.file_loads
  WHERE (outcome = 'published'::text)
  ORDER BY table_name,
        CASE table_name
            WHEN 'sales'::text THEN sale_month
            ELSE NULL::date
        END, started_at DESC;

COMMENT ON VIEW pipeline.current_loads IS 'The loads whose rows are in public now: one a table, for sales one a month.';

COMMENT ON COLUMN pipeline.current_loads.load_id IS 'The load.';

COMMENT ON COLUMN pipeline.current_loads.table_name IS 'Table in public.';

COMMENT ON COLUMN pipeline.current_loads.sale_month IS 'Month of the sales; of the stores the month whose run loaded them; null for the customer files.';

COMMENT ON COLUMN pipeline.current_loads.sha256 IS 'SHA-256 of the CSV text: the version of the file.';

COMMENT ON COLUMN pipeline.current_loads.row_count IS 'Rows in the file.';

COMMENT ON COLUMN pipeline.current_loads.last_date IS 'Latest day in the file; null where it has no days.';

COMMENT ON COLUMN pipeline.current_loads.total IS 'Sum of the month''s sales, once the month is aggregated.';

COMMENT ON COLUMN pipeline.current_loads.started_at IS 'When the server began to send the file.';

COMMENT ON COLUMN pipeline.current_loads.finished_at IS 'When the load was published.';

COMMENT ON COLUMN pipeline.current_loads.aggregated_at IS 'When the month was aggregated into monthly_sales.';

CREATE FUNCTION pipeline.is_newest(load bigint) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    RETURN (NOT (EXISTS (SELECT FROM (pipeline.file_loads this JOIN pipeline.current_loads published ON (((this.table_name = published.table_name) AND ((this.table_name <> 'sales'::text) OR (this.sale_month = published.sale_month)) AND (this.started_at < published.started_at)))) WHERE (this.load_id = is_newest.load))));

COMMENT ON FUNCTION pipeline.is_newest(load bigint) IS 'Whether no later load of the same table (and month) was published.';

CREATE FUNCTION pipeline.lock_month(sale_month date) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    RETURN pg_advisory_xact_lock(hashtext('pipeline.lock_month'::text), (sale_month - '2000-01-01'::date));

COMMENT ON FUNCTION pipeline.lock_month(sale_month date) IS 'Until the transaction ends, lets nobody else replace this month; other months do not wait.';

CREATE FUNCTION pipeline.lock_staged_month(sale_month date) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    declare
        staged constant text := 'staging.' || quote_ident('sales_' || to_char(sale_month, 'YYYY_MM'));
    begin
        perform pg_advisory_xact_lock(hashtext('pipeline.begin_staging'), sale_month - date '2000-01-01');
        if to_regclass(staged) is not null then
            execute format('lock table %s in access exclusive mode', staged);
        end if;
    end
    $$;

COMMENT ON FUNCTION pipeline.lock_staged_month(sale_month date) IS 'Until the transaction ends, lets nobody else stage this month of sales.';

CREATE FUNCTION pipeline.mark_published(load bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        begin
            update pipeline.file_loads
            set
                outcome = 'published',
                problem = case
                    when not pipeline.is_newest(load) then 'not used: a newer file was published before this one'
                end,
                finished_at = clock_timestamp()
            where load_id = load;
        end
        $$;

COMMENT ON FUNCTION pipeline.mark_published(load bigint) IS 'Notes that this transaction publishes the load.';

CREATE FUNCTION pipeline.prepare_month(sale_month date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    declare
        suffix constant text := to_char(sale_month, 'YYYY_MM');
    begin
        if extract(day from sale_month) <> 1 then
            raise exception 'pipeline.prepare_month: % is not the first day of a month', sale_month;
        end if;

        -- Two runs must not both find the partition missing and both create it.
        perform pg_advisory_xact_lock(hashtext('pipeline.prepare_month'));

        if to_regclass('staging.stores_' || suffix) is null then
            execute format('create table staging.%I (like staging.stores including all)', 'stores_' || suffix);
            execute format(
                'alter table staging.%I alter column sale_month set default %L', 'stores_' || suffix, sale_month
            );
            execute format(
                'alter table staging.stores attach partition staging.%I for values in (%L)',
                'stores_' || suffix, sale_month
            );
        end if;
    end
    $$;

COMMENT ON FUNCTION pipeline.prepare_month(sale_month date) IS 'Makes the partition of staging.stores for one month, unless it exists.';

CREATE FUNCTION pipeline.refuse(message text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        begin
            raise exception using message = message, errcode = 'check_violation';
        end
        $$;

COMMENT ON FUNCTION pipeline.refuse(message text) IS 'Fails the transaction with this message: what was found, why it stops the load, what to do.';

CREATE FUNCTION pipeline.report(message text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        begin
            raise notice using message = message;
        end
        $$;

COMMENT ON FUNCTION pipeline.report(message text) IS 'Writes this message into the log of the task.';

CREATE FUNCTION pipeline.report_change(load bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        declare
            this pipeline.file_loads;
            before pipeline.file_loads;
        begin
            select * into this from pipeline.file_loads where load_id = load;
            if this.problem is not null then
                perform pipeline.report(concat(this.address, ': ', this.problem, '; the table keeps that one'));
                return;
            end if;
            select * into before
            from pipeline.file_loads
            where
                outcome = 'published'
                and problem is null
                and table_name = this.table_name
                and (table_name <> 'sales' or sale_month = this.sale_month)
                and started_at < this.started_at
            order by started_at desc
            limit 1;
            if before.sha256 <> this.sha256 then
                perform pipeline.report(concat(
                    this.address, ' has changed since it was loaded at ', before.started_at,
                    ': rows ', before.row_count, ' -> ', this.row_count,
                    ', total ' || before.total || ' -> ' || this.total,
                    ', SHA-256 ', before.sha256, ' -> ', this.sha256
                ));
            end if;
        end
        $$;

COMMENT ON FUNCTION pipeline.report_change(load bigint) IS 'Writes into the log of the task how the file differs from the one that was loaded before.';

CREATE FUNCTION pipeline.require_checked(load bigint, staged_rows bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
        declare
            this pipeline.file_loads;
            is_staged boolean;
            message text;
        begin
            select * into this from pipeline.file_loads where load_id = load;
            -- Numbers are given while staging is locked, so the greatest one is what staging holds.
            is_staged := load = (
                select max(load_id)
                from pipeline.file_loads
                where
                    table_name = this.table_name
                    and sale_month is not distinct from this.sale_month
                    and row_count is not null
            );
            if is_staged and this.outcome in ('checked', 'published') and this.row_count = staged_rows then
                return;
            end if;
            message := case
                when this.outcome is null then
                    'load ' || coalesce(load::text, 'null') || ' is not in pipeline.file_loads'
                when this.outcome = 'refused' then
                    'the load was refused: ' || this.problem
                when this.outcome = 'replaced' or not is_staged then
                    'another run has staged this file since, and publishes it'
                when this.outcome = 'staged' then
                    'the load has not been checked'
                else
                    'the file had ' || this.row_count || ' rows, but staging holds ' || staged_rows
                    || ' (a load that was published before is no longer staged)'
            end;
            raise exception using
                errcode = 'check_violation',
                message = concat(
                    this.address, ': ', message, '. Only a checked load that is still staged can be published, so the',
                    ' tables stay as they were. Clear this run from its staging tasks on.'
                );
        end
        $$;

COMMENT ON FUNCTION pipeline.require_checked(load bigint, staged_rows bigint) IS 'Fails the transaction unless this load was found good and is what staging holds, all its rows.';

CREATE FUNCTION pipeline.seal_staged_month(load bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    declare
        month constant date := (select sale_month from pipeline.file_loads where load_id = load);
        staged constant text := 'staging.' || quote_ident('sales_' || to_char(month, 'YYYY_MM'));
    begin
        perform pg_advisory_xact_lock(hashtext('pipeline.begin_staging'), month - date '2000-01-01');
        if
            exists (select from pipeline.file_loads where load_id = load and outcome = 'checked')
            and exists (select from pg_inherits where inhrelid = to_regclass(staged))
        then
            execute format('alter table %s no inherit staging.sales', staged);
        end if;
    end
    $$;

COMMENT ON FUNCTION pipeline.seal_staged_month(load bigint) IS 'Takes the staged month of a load that was found good out of staging.sales: it waits to be published.';

CREATE TABLE public.customer_activity (
    idx integer NOT NULL,
    valid_from date NOT NULL,
    valid_to date,
    scd_a double precision,
    scd_b integer
);

COMMENT ON TABLE public.customer_activity IS 'Activity of each client with the days on which it was valid, exactly as in customer_activity.csv.';

COMMENT ON COLUMN public.customer_activity.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.customer_activity.valid_from IS 'First day on which the row is valid.';

COMMENT ON COLUMN public.customer_activity.valid_to IS 'Day on which the row stopped being valid; null for the row that is current.';

COMMENT ON COLUMN public.customer_activity.scd_a IS 'Slowly changing attribute a.';

COMMENT ON COLUMN public.customer_activity.scd_b IS 'Slowly changing attribute b, a whole number.';

CREATE TABLE public.customer_profiles (
    idx integer NOT NULL,
    attr_a integer,
    attr_b text,
    attr_c text
);

COMMENT ON TABLE public.customer_profiles IS 'Profile of each client, exactly as in customer_profiles.csv.';

COMMENT ON COLUMN public.customer_profiles.idx IS 'Client.';

COMMENT ON COLUMN public.customer_profiles.attr_a IS 'Profile attribute a, a whole number.';

COMMENT ON COLUMN public.customer_profiles.attr_b IS 'Profile attribute b, one letter.';

COMMENT ON COLUMN public.customer_profiles.attr_c IS 'Profile attribute c, up to three characters; not part of the feature store.';

CREATE TABLE public.labels (
    idx integer NOT NULL,
    label integer NOT NULL,
    CONSTRAINT labels_label_check CHECK ((label = ANY (ARRAY[0, 1])))
);

COMMENT ON TABLE public.labels IS 'What the model learns to predict, exactly as in labels.csv.';

COMMENT ON COLUMN public.labels.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.labels.label IS 'The label, 0 or 1.';

CREATE FUNCTION public.feature_store_as_of(day date) RETURNS TABLE(idx integer, attr_a integer, attr_b text, scd_a double precision, scd_b integer, label integer)
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
 WITH profiles AS (
          SELECT DISTINCT customer_profiles.idx,
             customer_profiles.attr_a,
             customer_profiles.attr_b
            FROM public.customer_profiles
         ), labelled AS (
          SELECT DISTINCT labels.idx,
             labels.label
            FROM public.labels
         ), current_activity AS (
          SELECT DISTINCT ON (activity.idx) activity.idx,
             activity.scd_a,
             activity.scd_b
            FROM public.customer_activity activity
           WHERE ((activity.valid_from <= feature_store_as_of.day) AND ((activity.valid_to IS NULL) OR (activity.valid_to > feature_store_as_of.day)))
           ORDER BY activity.idx, activity.valid_from DESC, activity.scd_a DESC NULLS LAST, activity.scd_b DESC NULLS LAST
         ), last_activity AS (
          SELECT DISTINCT ON (activity.idx) activity.idx,
             activity.scd_a,
             activity.scd_b
            FROM public.customer_activity activity
           WHERE ((activity.valid_from <= feature_store_as_of.day) AND (activity.valid_to <= feature_store_as_of.day) AND (NOT (EXISTS ( SELECT
                    FROM public.customer_activity other
                   WHERE ((other.idx = activity.idx) AND (other.valid_from <= feature_store_as_of.day) AND ((other.valid_to IS NULL) OR (other.valid_to > feature_store_as_of.day)))))))
           ORDER BY activity.idx, activity.valid_to DESC, activity.valid_from DESC, activity.scd_a DESC NULLS LAST, activity.scd_b DESC NULLS LAST
         ), latest_activity AS (
          SELECT current_activity.idx,
             current_activity.scd_a,
             current_activity.scd_b
            FROM current_activity
         UNION ALL
          SELECT last_activity.idx,
             last_activity.scd_a,
             last_activity.scd_b
            FROM last_activity
         )
  SELECT profiles.idx,
     profiles.attr_a,
     profiles.attr_b,
     latest_activity.scd_a,
     latest_activity.scd_b,
     labelled.label
    FROM ((profiles
      JOIN latest_activity ON ((profiles.idx = latest_activity.idx)))
      JOIN labelled ON ((profiles.idx = labelled.idx)));
END;

COMMENT ON FUNCTION public.feature_store_as_of(day date) IS 'The feature store as it would have been built on that day: each client with the activity that was its latest then. Clients whose first activity began later are left out. Profiles and labels have no days: they are today''s. For today it equals feature_store.';

CREATE TABLE pipeline.feature_store_builds (
    built_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    row_count bigint NOT NULL,
    profiles_load bigint,
    activity_load bigint,
    labels_load bigint
);

COMMENT ON TABLE pipeline.feature_store_builds IS 'Every rebuild of the feature store, and the loads it took.';

COMMENT ON COLUMN pipeline.feature_store_builds.built_at IS 'When.';

COMMENT ON COLUMN pipeline.feature_store_builds.row_count IS 'Clients in the feature store.';

COMMENT ON COLUMN pipeline.feature_store_builds.profiles_load IS 'Load of customer_profiles.';

COMMENT ON COLUMN pipeline.feature_store_builds.activity_load IS 'Load of customer_activity.';

COMMENT ON COLUMN pipeline.feature_store_builds.labels_load IS 'Load of labels.';

ALTER TABLE pipeline.file_loads ALTER COLUMN load_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pipeline.file_loads_load_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pipeline.sales_by_store (
    load_id bigint NOT NULL,
    store_idx integer NOT NULL,
    row_count bigint NOT NULL,
    first_sale integer NOT NULL,
    last_date date NOT NULL,
    total numeric NOT NULL
);

COMMENT ON TABLE pipeline.sales_by_store IS 'What each load of a sales file holds, by store; kept until the month is loaded anew.';

COMMENT ON COLUMN pipeline.sales_by_store.load_id IS 'The load: file_loads.load_id.';

COMMENT ON COLUMN pipeline.sales_by_store.store_idx IS 'Store of the sales.';

COMMENT ON COLUMN pipeline.sales_by_store.row_count IS 'Number of sales.';

COMMENT ON COLUMN pipeline.sales_by_store.first_sale IS 'Least idx of the sales, to find them in the file.';

COMMENT ON COLUMN pipeline.sales_by_store.last_date IS 'Latest day of the sales.';

COMMENT ON COLUMN pipeline.sales_by_store.total IS 'Exact sum of the sales.';

CREATE TABLE public.monthly_sales (
    store_idx integer NOT NULL,
    location text NOT NULL,
    sale_month date NOT NULL,
    value numeric NOT NULL,
    CONSTRAINT monthly_sales_sale_month_check CHECK ((EXTRACT(day FROM sale_month) = (1)::numeric))
);

COMMENT ON TABLE public.monthly_sales IS 'Sum of the sales of each store and month; a store without sales in a month has no row for it.';

COMMENT ON COLUMN public.monthly_sales.store_idx IS 'Store: stores.idx.';

COMMENT ON COLUMN public.monthly_sales.location IS 'Where the store was, when the month was last aggregated.';

COMMENT ON COLUMN public.monthly_sales.sale_month IS 'First day of the month.';

COMMENT ON COLUMN public.monthly_sales.value IS 'Exact sum of sales.value.';

CREATE TABLE public.stores (
    idx integer NOT NULL,
    location text NOT NULL
);

COMMENT ON TABLE public.stores IS 'The stores of the newest stores.csv; every monthly load refreshes it.';

COMMENT ON COLUMN public.stores.idx IS 'Store.';

COMMENT ON COLUMN public.stores.location IS 'Where the store is.';

CREATE VIEW public.data_freshness AS
 WITH newest_load AS (
         SELECT DISTINCT ON (current_loads.table_name) current_loads.table_name,
            current_loads.sha256
           FROM pipeline.current_loads
          ORDER BY current_loads.table_name, current_loads.sale_month DESC NULLS LAST
        ), loaded AS (
         SELECT current_loads.table_name,
            max(current_loads.finished_at) AS loaded_at,
            newest_load.sha256,
            max(current_loads.last_date) AS up_to,
            (sum(current_loads.row_count))::bigint AS row_count
           FROM (pipeline.current_loads
             JOIN newest_load ON ((current_loads.table_name = newest_load.table_name)))
          GROUP BY current_loads.table_name, newest_load.sha256
        ), newest_aggregated AS (
         SELECT DISTINCT ON (file_loads.sale_month) file_loads.sale_month,
            file_loads.aggregated_at,
            file_loads.sha256,
            file_loads.last_date
           FROM pipeline.file_loads
          WHERE ((file_loads.table_name = 'sales'::text) AND (file_loads.aggregated_at IS NOT NULL))
          ORDER BY file_loads.sale_month, file_loads.aggregated_at DESC
        ), aggregated AS (
         SELECT max(newest_aggregated.aggregated_at) AS loaded_at,
            (array_agg(newest_aggregated.sha256 ORDER BY newest_aggregated.sale_month DESC))[1] AS sha256,
            max(newest_aggregated.last_date) AS up_to
           FROM newest_aggregated
        ), built AS (
         SELECT feature_store_builds.built_at,
            feature_store_builds.row_count,
            activity.last_date,
            concat_ws(' '::text, profiles.sha256, activity.sha256, labels.sha256) AS versions
           FROM (((pipeline.feature_store_builds
             LEFT JOIN pipeline.file_loads profiles ON ((feature_store_builds.profiles_load = profiles.load_id)))
             LEFT JOIN pipeline.file_loads activity ON ((feature_store_builds.activity_load = activity.load_id)))
             LEFT JOIN pipeline.file_loads labels ON ((feature_store_builds.labels_load = labels.load_id)))
          ORDER BY feature_store_builds.built_at DESC
         LIMIT 1
        ), known(table_name, loaded_at, file_version, up_to, row_count) AS (
         SELECT loaded.table_name,
            loaded.loaded_at,
            loaded.sha256,
            loaded.up_to,
            loaded.row_count
           FROM loaded
          WHERE (loaded.table_name <> 'stores'::text)
        UNION ALL
         SELECT loaded.table_name,
            loaded.loaded_at,
            loaded.sha256,
            loaded.up_to,
            ( SELECT count(*) AS count
                   FROM public.stores) AS count
           FROM loaded
          WHERE (loaded.table_name = 'stores'::text)
        UNION ALL
         SELECT 'monthly_sales'::text,
            aggregated.loaded_at,
            aggregated.sha256,
            aggregated.up_to,
            ( SELECT count(*) AS count
                   FROM public.monthly_sales) AS count
           FROM aggregated
          WHERE (aggregated.loaded_at IS NOT NULL)
        UNION ALL
         SELECT 'feature_store'::text,
            built.built_at,
            built.versions,
            built.last_date,
            built.row_count
           FROM built
        )
 SELECT every_table.table_name,
    known.loaded_at,
    known.file_version,
    known.up_to,
    known.row_count
   FROM (( VALUES (1,'customer_profiles'::text), (2,'customer_activity'::text), (3,'labels'::text), (4,'stores'::text), (5,'sales'::text), (6,'monthly_sales'::text), (7,'feature_store'::text)) every_table(place, table_name)
     LEFT JOIN known ON ((every_table.table_name = known.table_name)))
  ORDER BY every_table.place;

COMMENT ON VIEW public.data_freshness IS 'How fresh each table is: when it was last loaded, from which files, up to which day, with how many rows.';

COMMENT ON COLUMN public.data_freshness.table_name IS 'Table in public.';

COMMENT ON COLUMN public.data_freshness.loaded_at IS 'When its rows last changed by a load; null before the first.';

COMMENT ON COLUMN public.data_freshness.file_version IS 'SHA-256 of the file: for sales and monthly_sales of the newest month''s, for the feature store of the profiles, the activity and the labels.';

COMMENT ON COLUMN public.data_freshness.up_to IS 'Latest day in the data; null where it has no days.';

COMMENT ON COLUMN public.data_freshness.row_count IS 'Rows that were loaded; null before the first load.';

CREATE TABLE public.feature_store (
    idx integer NOT NULL,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer NOT NULL
);

COMMENT ON TABLE public.feature_store IS 'One row for every client that has a profile, an activity and a label, with its latest activity.';

COMMENT ON COLUMN public.feature_store.idx IS 'Client: customer_profiles.idx.';

COMMENT ON COLUMN public.feature_store.attr_a IS 'customer_profiles.attr_a';

COMMENT ON COLUMN public.feature_store.attr_b IS 'customer_profiles.attr_b';

COMMENT ON COLUMN public.feature_store.scd_a IS 'customer_activity.scd_a of the latest activity';

COMMENT ON COLUMN public.feature_store.scd_b IS 'customer_activity.scd_b of the latest activity';

COMMENT ON COLUMN public.feature_store.label IS 'labels.label';

CREATE TABLE public.sales (
    idx integer NOT NULL,
    value numeric NOT NULL,
    date date NOT NULL,
    store_idx integer NOT NULL
)
PARTITION BY RANGE (date);

COMMENT ON TABLE public.sales IS 'Daily sales, exactly as in the monthly sales files. One partition a month: name the dates to read few.';

COMMENT ON COLUMN public.sales.idx IS 'Index of the sale, as in the file.';

COMMENT ON COLUMN public.sales.value IS 'Amount sold that day, exact; negative for a refund.';

COMMENT ON COLUMN public.sales.date IS 'Day of the sale.';

COMMENT ON COLUMN public.sales.store_idx IS 'Store of the sale: stores.idx.';

CREATE UNLOGGED TABLE staging.clients (
    idx integer NOT NULL,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer,
    has_activity boolean NOT NULL
);

COMMENT ON TABLE staging.clients IS 'Every client with a profile, as the feature store should show it.';

COMMENT ON COLUMN staging.clients.idx IS 'Client.';

COMMENT ON COLUMN staging.clients.attr_a IS 'customer_profiles.attr_a.';

COMMENT ON COLUMN staging.clients.attr_b IS 'customer_profiles.attr_b.';

COMMENT ON COLUMN staging.clients.scd_a IS 'customer_activity.scd_a of the latest activity.';

COMMENT ON COLUMN staging.clients.scd_b IS 'customer_activity.scd_b of the latest activity.';

COMMENT ON COLUMN staging.clients.label IS 'labels.label; null without one.';

COMMENT ON COLUMN staging.clients.has_activity IS 'Whether there is an activity at all.';

CREATE TABLE staging.customer_activity (
    idx integer NOT NULL,
    valid_from date NOT NULL,
    valid_to date,
    scd_a double precision,
    scd_b integer
);

COMMENT ON TABLE staging.customer_activity IS 'The newest customer_activity.csv, not yet published.';

COMMENT ON COLUMN staging.customer_activity.idx IS 'Client.';

COMMENT ON COLUMN staging.customer_activity.valid_from IS 'First day on which the row is valid.';

COMMENT ON COLUMN staging.customer_activity.valid_to IS 'Day on which the row stopped being valid; null for the row that is current.';

COMMENT ON COLUMN staging.customer_activity.scd_a IS 'Slowly changing attribute a.';

COMMENT ON COLUMN staging.customer_activity.scd_b IS 'Slowly changing attribute b, a whole number.';

CREATE TABLE staging.customer_profiles (
    idx integer NOT NULL,
    attr_a integer,
    attr_b text,
    attr_c text
);

COMMENT ON TABLE staging.customer_profiles IS 'The newest customer_profiles.csv, not yet published.';

COMMENT ON COLUMN staging.customer_profiles.idx IS 'Client.';

COMMENT ON COLUMN staging.customer_profiles.attr_a IS 'Profile attribute a, a whole number.';

COMMENT ON COLUMN staging.customer_profiles.attr_b IS 'Profile attribute b, one letter.';

COMMENT ON COLUMN staging.customer_profiles.attr_c IS 'Profile attribute c, up to three characters; not part of the feature store.';

CREATE TABLE staging.labels (
    idx integer NOT NULL,
    label integer NOT NULL
);

COMMENT ON TABLE staging.labels IS 'The newest labels.csv, not yet published.';

COMMENT ON COLUMN staging.labels.idx IS 'Client.';

COMMENT ON COLUMN staging.labels.label IS 'The label, 0 or 1.';

CREATE TABLE staging.sales (
    idx integer NOT NULL,
    value numeric NOT NULL,
    date date NOT NULL,
    store_idx integer NOT NULL
);

COMMENT ON TABLE staging.sales IS 'Sales files that were not yet found good, each month in a child of its own.';

COMMENT ON COLUMN staging.sales.idx IS 'Index of the sale, as in the file.';

COMMENT ON COLUMN staging.sales.value IS 'Amount sold that day, exact; negative for a refund.';

COMMENT ON COLUMN staging.sales.date IS 'Day of the sale.';

COMMENT ON COLUMN staging.sales.store_idx IS 'Store of the sale: stores.idx.';

CREATE TABLE staging.stores (
    idx integer NOT NULL,
    location text NOT NULL,
    sale_month date NOT NULL
)
PARTITION BY LIST (sale_month);

COMMENT ON TABLE staging.stores IS 'The stores.csv that each month loaded last.';

COMMENT ON COLUMN staging.stores.idx IS 'Store.';

COMMENT ON COLUMN staging.stores.location IS 'Where the store is.';

COMMENT ON COLUMN staging.stores.sale_month IS 'Month that the file was loaded for: the default of the month''s partition, never in the file.';

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_pkey PRIMARY KEY (built_at);

ALTER TABLE ONLY pipeline.file_loads
    ADD CONSTRAINT file_loads_pkey PRIMARY KEY (load_id);

ALTER TABLE ONLY pipeline.sales_by_store
    ADD CONSTRAINT sales_by_store_pkey PRIMARY KEY (load_id, store_idx);

ALTER TABLE ONLY public.feature_store
    ADD CONSTRAINT feature_store_pkey PRIMARY KEY (idx);

ALTER TABLE ONLY public.monthly_sales
    ADD CONSTRAINT monthly_sales_pkey PRIMARY KEY (sale_month, store_idx);

ALTER TABLE ONLY public.stores
    ADD CONSTRAINT stores_pkey PRIMARY KEY (idx);

CREATE INDEX file_loads_published ON pipeline.file_loads USING btree (table_name, sale_month, started_at) WHERE (outcome = 'published'::text);

CREATE UNIQUE INDEX file_loads_waiting ON pipeline.file_loads USING btree (table_name, COALESCE(sale_month, '-infinity'::date)) WHERE (outcome = ANY (ARRAY['staged'::text, 'checked'::text]));

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_activity_load_fkey FOREIGN KEY (activity_load) REFERENCES pipeline.file_loads(load_id);

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_labels_load_fkey FOREIGN KEY (labels_load) REFERENCES pipeline.file_loads(load_id);

ALTER TABLE ONLY pipeline.feature_store_builds
    ADD CONSTRAINT feature_store_builds_profiles_load_fkey FOREIGN KEY (profiles_load) REFERENCES pipeline.file_loads(load_id);

REVOKE CONNECT,TEMPORARY ON DATABASE companydata FROM PUBLIC;
GRANT CONNECT ON DATABASE companydata TO PUBLIC;
GRANT CONNECT ON DATABASE companydata TO ds_user_role;
GRANT CONNECT,TEMPORARY ON DATABASE companydata TO mle_user_role;
GRANT CONNECT,TEMPORARY ON DATABASE companydata TO pipeline;

GRANT USAGE ON SCHEMA pipeline TO pipeline;

GRANT USAGE ON SCHEMA public TO ds_user_role;
GRANT ALL ON SCHEMA public TO mle_user_role;
GRANT USAGE ON SCHEMA public TO pipeline;

GRANT USAGE ON SCHEMA staging TO pipeline;

REVOKE ALL ON FUNCTION pipeline.begin_staging(table_name text, sale_month date) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.begin_staging(table_name text, sale_month date) TO pipeline;

REVOKE ALL ON FUNCTION pipeline.delete_month_of_sales(sale_month date) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.delete_month_of_sales(sale_month date) TO pipeline;

REVOKE ALL ON FUNCTION pipeline.end_staging(table_name text, sale_month date) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.end_staging(table_name text, sale_month date) TO pipeline;

REVOKE ALL ON FUNCTION pipeline.insert_month_of_sales(sale_month date) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.insert_month_of_sales(sale_month date) TO pipeline;

GRANT SELECT,INSERT ON TABLE pipeline.file_loads TO pipeline;

GRANT UPDATE(last_date) ON TABLE pipeline.file_loads TO pipeline;

GRANT UPDATE(total) ON TABLE pipeline.file_loads TO pipeline;

GRANT UPDATE(aggregated_at) ON TABLE pipeline.file_loads TO pipeline;

GRANT UPDATE(finished_at) ON TABLE pipeline.file_loads TO pipeline;

GRANT UPDATE(outcome) ON TABLE pipeline.file_loads TO pipeline;

GRANT UPDATE(problem) ON TABLE pipeline.file_loads TO pipeline;

GRANT SELECT ON TABLE pipeline.current_loads TO pipeline;

REVOKE ALL ON FUNCTION pipeline.prepare_month(sale_month date) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.prepare_month(sale_month date) TO pipeline;

REVOKE ALL ON FUNCTION pipeline.seal_staged_month(load bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION pipeline.seal_staged_month(load bigint) TO pipeline;

GRANT SELECT ON TABLE public.customer_activity TO ds_user_role;
GRANT ALL ON TABLE public.customer_activity TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.customer_activity TO pipeline;

GRANT SELECT ON TABLE public.customer_profiles TO ds_user_role;
GRANT ALL ON TABLE public.customer_profiles TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.customer_profiles TO pipeline;

GRANT SELECT ON TABLE public.labels TO ds_user_role;
GRANT ALL ON TABLE public.labels TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.labels TO pipeline;

GRANT ALL ON FUNCTION public.feature_store_as_of(day date) TO mle_user_role;
GRANT ALL ON FUNCTION public.feature_store_as_of(day date) TO ds_user_role;

GRANT SELECT,INSERT ON TABLE pipeline.feature_store_builds TO pipeline;

GRANT SELECT,INSERT,DELETE ON TABLE pipeline.sales_by_store TO pipeline;

GRANT SELECT ON TABLE public.monthly_sales TO ds_user_role;
GRANT ALL ON TABLE public.monthly_sales TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.monthly_sales TO pipeline;

GRANT SELECT ON TABLE public.stores TO ds_user_role;
GRANT ALL ON TABLE public.stores TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.stores TO pipeline;

GRANT SELECT ON TABLE public.data_freshness TO ds_user_role;
GRANT ALL ON TABLE public.data_freshness TO mle_user_role;

GRANT SELECT ON TABLE public.feature_store TO ds_user_role;
GRANT ALL ON TABLE public.feature_store TO mle_user_role;
GRANT SELECT,INSERT,DELETE ON TABLE public.feature_store TO pipeline;

GRANT SELECT ON TABLE public.sales TO ds_user_role;
GRANT ALL ON TABLE public.sales TO mle_user_role;

GRANT SELECT,INSERT,TRUNCATE,UPDATE ON TABLE staging.clients TO pipeline;

GRANT SELECT,INSERT,TRUNCATE ON TABLE staging.customer_activity TO pipeline;

GRANT SELECT,INSERT,TRUNCATE ON TABLE staging.customer_profiles TO pipeline;

GRANT SELECT,INSERT,TRUNCATE ON TABLE staging.labels TO pipeline;

GRANT SELECT,INSERT,TRUNCATE ON TABLE staging.sales TO pipeline;

GRANT SELECT,INSERT,TRUNCATE ON TABLE staging.stores TO pipeline;

ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT ALL ON SEQUENCES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT ALL ON SEQUENCES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT ALL ON SEQUENCES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT ALL ON FUNCTIONS TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT ALL ON FUNCTIONS TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT ALL ON FUNCTIONS TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT SELECT ON TABLES TO ds_user_role;
ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA public GRANT ALL ON TABLES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT SELECT ON TABLES TO ds_user_role;
ALTER DEFAULT PRIVILEGES FOR ROLE mle_user IN SCHEMA public GRANT ALL ON TABLES TO mle_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT ALL ON TABLES TO mle_user_role;
ALTER DEFAULT PRIVILEGES FOR ROLE mle_user_role IN SCHEMA public GRANT SELECT ON TABLES TO ds_user_role;

ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA staging GRANT SELECT,INSERT,TRUNCATE ON TABLES TO pipeline;
