"""A month of sales is copied once: the table that it is staged in becomes its partition.

Why:    deleting and inserting a month writes every row twice and leaves the old ones dead. Here COPY fills a
        new table, made like sales and limited to its month by a check, so that a stray date fails with its
        line; and publishing drops the month's old partition and attaches the new table, which moves no row.
        The rows are frozen as they are copied: a transaction that began before the swap and reads after it
        sees the new month, and never none. What one pass over the staged month finds is kept by store, for
        the verdict, for publishing and for monthly_sales.
        staging.sales becomes a plain parent of these tables: unlike a partition, a child comes and goes
        without locking the reads of the others, and may have columns that the file lacks.
Locks:  ACCESS EXCLUSIVE on staging.sales and its partitions, which are dropped with whatever is staged in
        them: a run between staging and publishing is cleared afterwards. A load that is staging makes this
        revision fail after lock_timeout, and it can be run again. public.sales is not locked.
Undo:   stages in partitions again and drops the sums; what is staged is dropped, what is published stays.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PREPARE_MONTH = """
    create or replace function pipeline.prepare_month(sale_month date)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $$
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
    $$
"""

PREPARE_MONTH_IN_PARTITIONS = """
    create or replace function pipeline.prepare_month(sale_month date)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        next_month constant date := sale_month + interval '1 month';
        suffix constant text := to_char(sale_month, 'YYYY_MM');
        staged text;
    begin
        if extract(day from sale_month) <> 1 then
            raise exception 'pipeline.prepare_month: % is not the first day of a month', sale_month;
        end if;

        -- Two runs must not both find the partition missing and both create it.
        perform pg_advisory_xact_lock(hashtext('pipeline.prepare_month'));

        -- Created apart and attached: CREATE TABLE ... PARTITION OF would lock readers out of sales.
        if to_regclass('partitions.sales_' || suffix) is null then
            execute format('create table partitions.%I (like public.sales including all)', 'sales_' || suffix);
            execute format(
                'alter table public.sales attach partition partitions.%I for values from (%L) to (%L)',
                'sales_' || suffix, sale_month, next_month
            );
        end if;

        foreach staged in array array['sales', 'stores'] loop
            if to_regclass(format('staging.%I', staged || '_' || suffix)) is null then
                execute format(
                    'create table staging.%I (like staging.%I including all)', staged || '_' || suffix, staged
                );
                execute format(
                    'alter table staging.%I alter column sale_month set default %L',
                    staged || '_' || suffix, sale_month
                );
                execute format(
                    'alter table staging.%I attach partition staging.%I for values in (%L)',
                    staged, staged || '_' || suffix, sale_month
                );
            end if;
        end loop;
    end
    $$
"""

BEGIN_STAGING = """
    create function pipeline.begin_staging(table_name text, sale_month date)
    returns text
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $$
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
    $$
"""

END_STAGING = """
    create function pipeline.end_staging(table_name text, sale_month date)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set default_statistics_target = 10
    as $$
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
    $$
"""

# Whoever reads staging.sales locks all its children, those of other months too. Without this a check of one month, a
# publishing of another and a migration of sales could wait for each other in a circle.
SEAL_STAGED_MONTH = """
    create function pipeline.seal_staged_month(load bigint)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $$
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
    $$
"""

LOCK_STAGED_MONTH = """
    create function pipeline.lock_staged_month(sale_month date)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    as $$
    declare
        staged constant text := 'staging.' || quote_ident('sales_' || to_char(sale_month, 'YYYY_MM'));
    begin
        perform pg_advisory_xact_lock(hashtext('pipeline.begin_staging'), sale_month - date '2000-01-01');
        if to_regclass(staged) is not null then
            execute format('lock table %s in access exclusive mode', staged);
        end if;
    end
    $$
"""

# A reader who is still at work makes the swap wait, and whoever comes meanwhile waits behind it: not for long.
DELETE_MONTH_OF_SALES = """
    create function pipeline.delete_month_of_sales(sale_month date)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '3s'
    as $$
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
    $$
"""

INSERT_MONTH_OF_SALES = """
    create function pipeline.insert_month_of_sales(sale_month date)
    returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    as $$
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
    $$
"""


def upgrade() -> None:
    op.execute("drop table staging.sales")
    op.execute("create table staging.sales (like public.sales including comments)")
    op.execute("""
        comment on table staging.sales is
            'Sales files that were not yet found good, each month in a child of its own.'
    """)
    op.execute(PREPARE_MONTH)
    op.execute("""
        comment on function pipeline.prepare_month(date) is
            'Makes the partition of staging.stores for one month, unless it exists.'
    """)

    op.execute("""
        create table pipeline.sales_by_store (
            load_id bigint not null,
            store_idx integer not null,
            row_count bigint not null,
            first_sale integer not null,
            last_date date not null,
            total numeric not null,
            primary key (load_id, store_idx)
        )
    """)
    op.execute("grant select, insert, delete on pipeline.sales_by_store to pipeline")
    # A scan runs in parallel for CREATE TABLE AS, and not for INSERT.
    grant_temporary("grant", "to")
    # Sales now come and go by the functions below alone.
    op.execute("revoke all on public.sales from pipeline")

    for function in (
        BEGIN_STAGING,
        END_STAGING,
        SEAL_STAGED_MONTH,
        LOCK_STAGED_MONTH,
        DELETE_MONTH_OF_SALES,
        INSERT_MONTH_OF_SALES,
    ):
        op.execute(function)
    for signature in (
        "begin_staging(text, date)",
        "end_staging(text, date)",
        "seal_staged_month(bigint)",
        "delete_month_of_sales(date)",
        "insert_month_of_sales(date)",
    ):
        # They run with their owner's rights, so they are not for everybody.
        op.execute(f"revoke execute on function pipeline.{signature} from public")
        op.execute(f"grant execute on function pipeline.{signature} to pipeline")

    for comment in (
        "table pipeline.sales_by_store is"
        " 'What each load of a sales file holds, by store; kept until the month is loaded anew.'",
        "column pipeline.sales_by_store.load_id is 'The load: pipeline.file_loads.'",
        "column pipeline.sales_by_store.store_idx is 'Store of the sales.'",
        "column pipeline.sales_by_store.row_count is 'Number of sales.'",
        "column pipeline.sales_by_store.first_sale is 'Least idx of the sales, to find them in the file.'",
        "column pipeline.sales_by_store.last_date is 'Latest day of the sales.'",
        "column pipeline.sales_by_store.total is 'Exact sum of the sales.'",
        "function pipeline.begin_staging(text, date) is"
        " 'Makes or empties the table in staging that a file is copied into, and returns its name.'",
        "function pipeline.end_staging(text, date) is"
        " 'Puts a month of sales that was just copied in the place of what was staged for that month before.'",
        "function pipeline.seal_staged_month(bigint) is"
        " 'Takes the staged month of a load that was found good out of staging.sales: it waits to be published.'",
        "function pipeline.lock_staged_month(date) is"
        " 'Until the transaction ends, lets nobody else stage this month of sales.'",
        "function pipeline.delete_month_of_sales(date) is"
        " 'Drops the month''s partition; waits for readers of sales for 3 seconds at most, then fails.'",
        "function pipeline.insert_month_of_sales(date) is 'Attaches the staged month to sales as its partition.'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    for signature in (
        "insert_month_of_sales(date)",
        "delete_month_of_sales(date)",
        "lock_staged_month(date)",
        "seal_staged_month(bigint)",
        "end_staging(text, date)",
        "begin_staging(text, date)",
    ):
        op.execute(f"drop function pipeline.{signature}")
    op.execute("grant select, insert, delete on public.sales to pipeline")
    grant_temporary("revoke", "from")
    op.execute("drop table pipeline.sales_by_store")

    op.execute(PREPARE_MONTH_IN_PARTITIONS)
    op.execute("""
        comment on function pipeline.prepare_month(date) is
            'Makes the partitions of sales and of its staging tables for one month, unless they exist.'
    """)
    op.execute("""
        do $$
        declare
            staged regclass;
        begin
            for staged in
                select oid from pg_catalog.pg_class
                where relnamespace = 'staging'::regnamespace and relname ~ '^sales_' and relkind = 'r'
            loop
                execute format('drop table %s', staged);
            end loop;
        end
        $$
    """)
    op.execute("drop table staging.sales")
    op.execute("""
        create table staging.sales (
            like public.sales including comments,
            sale_month date not null
        ) partition by list (sale_month)
    """)
    op.execute("comment on table staging.sales is 'The sales file that each month loaded last.'")
    op.execute("""
        comment on column staging.sales.sale_month is
            'Month that the file was loaded for: the default of the month''s partition, never in the file.'
    """)


def grant_temporary(verb: str, preposition: str) -> None:
    op.execute(f"""
        do $$
        begin
            execute format('{verb} temporary on database %I {preposition} pipeline', current_database());
        end
        $$
    """)
