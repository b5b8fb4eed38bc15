"""Functions that the SQL files call: prepare a month, lock a month, refuse, report.

Why:    partitions are made on demand and need names built from the month, which a reviewed SQL file
        cannot do without pasting text; a refused load must fail with a sentence; a run must be able
        to write into its task's log. Nobody but the owner may call them: the schema is closed.
Locks:  none now. prepare_month takes SHARE UPDATE EXCLUSIVE on public.sales, staging.sales and
        staging.stores when a partition is missing, which lets readers and writers pass; it is meant
        to run in a transaction of its own, so that months wait for each other only that long.
Undo:   drops the functions; partitions already made stay with their tables.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create schema pipeline")
    op.execute("comment on schema pipeline is 'What the SQL files under sql/ call.'")

    op.execute("""
        create function pipeline.prepare_month(sale_month date)
        returns void
        language plpgsql
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
                        'create unlogged table staging.%I (like staging.%I including all)',
                        staged || '_' || suffix, staged
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
    """)
    op.execute("""
        comment on function pipeline.prepare_month(date) is
            'Makes the partitions of sales and of its staging tables for one month, unless they exist.'
    """)

    op.execute("""
        create function pipeline.lock_month(sale_month date)
        returns void
        language sql
        set search_path = pg_catalog, pg_temp
        return pg_advisory_xact_lock(hashtext('pipeline.lock_month'), sale_month - date '2000-01-01')
    """)
    op.execute("""
        comment on function pipeline.lock_month(date) is
            'Until the transaction ends, lets nobody else replace this month; other months do not wait.'
    """)

    op.execute("""
        create function pipeline.refuse(message text)
        returns void
        language plpgsql
        set search_path = pg_catalog, pg_temp
        as $$
        begin
            raise exception using message = message, errcode = 'check_violation';
        end
        $$
    """)
    op.execute("""
        comment on function pipeline.refuse(text) is
            'Fails the transaction with this message: what was found, why it stops the load, what to do.'
    """)

    op.execute("""
        create function pipeline.report(message text)
        returns void
        language plpgsql
        set search_path = pg_catalog, pg_temp
        as $$
        begin
            raise notice using message = message;
        end
        $$
    """)
    op.execute("comment on function pipeline.report(text) is 'Writes this message into the log of the task.'")


def downgrade() -> None:
    op.execute("drop schema pipeline cascade")
