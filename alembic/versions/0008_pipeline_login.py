"""The login of the DAGs: may do what loads need, and nothing else.

Why:    a load that goes wrong, or a password that leaks from Airflow, must not reach the roles, the schema or
        the migrations. The login creates and owns nothing: prepare_month makes partitions with the rights of
        its owner, the migrating admin, who goes on managing them, and they are read through public.sales.
        Staging becomes logged: rows that were staged and not yet published survive a crash of the server, so
        the retry of a publishing step finds them.
Locks:  ACCESS EXCLUSIVE on each table in schema staging until the revision is committed, some milliseconds a
        table, for each is emptied first: a run between staging and publishing is cleared afterwards. A load
        that is staging makes this revision fail after lock_timeout, and it can be run again.
Undo:   takes every privilege back and drops the login; staging becomes unlogged again, and empty.
"""

import os

from alembic import op
from roles import create_role_unless_it_exists, drop_roles_unless_they_are_needed, set_password

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LOGIN = "pipeline"

PREPARE_MONTH = """
    create or replace function pipeline.prepare_month(sale_month date)
    returns void
    language plpgsql
    {rights}
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
                    'create {persistence} table staging.%I (like staging.%I including all)',
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
"""


def upgrade() -> None:
    create_role_unless_it_exists(LOGIN, "login")
    op.execute("""
        do $$
        begin
            if exists (select from pg_catalog.pg_auth_members where member = 'pipeline'::regrole) then
                raise exception 'the server has a role pipeline that is a member of other roles, whose rights it must'
                    ' not have; nothing was migrated. REVOKE those memberships, or rename the role; then run the'
                    ' migration again';
            end if;
        end
        $$
    """)
    set_password(LOGIN, os.environ.get("PIPELINE_PASSWORD") or LOGIN)

    set_staging("logged")
    op.execute(PREPARE_MONTH.format(persistence="", rights="security definer"))

    op.execute("""
        do $$
        begin
            execute format('grant connect on database %I to pipeline', current_database());
        end
        $$
    """)
    op.execute("grant usage on schema public, staging, pipeline to pipeline")
    op.execute("""
        grant select, insert, delete on
            public.customer_profiles, public.customer_activity, public.labels, public.stores, public.sales,
            public.monthly_sales, public.feature_store
        to pipeline
    """)
    # prepare_month adds partitions to staging, so the default covers those to come.
    op.execute("grant select, insert, truncate on all tables in schema staging to pipeline")
    op.execute(
        "alter default privileges for role current_user in schema staging"
        " grant select, insert, truncate on tables to pipeline"
    )
    # A function that runs with its owner's rights is not for everybody, closed schema or not.
    op.execute("revoke execute on function pipeline.prepare_month(date) from public")
    op.execute("grant execute on function pipeline.prepare_month(date) to pipeline")


def downgrade() -> None:
    op.execute(PREPARE_MONTH.format(persistence="unlogged", rights="security invoker"))
    op.execute("revoke execute on function pipeline.prepare_month(date) from pipeline")
    op.execute("grant execute on function pipeline.prepare_month(date) to public")
    set_staging("unlogged")

    op.execute("alter default privileges for role current_user in schema staging revoke all on tables from pipeline")
    op.execute("revoke all on all tables in schema staging from pipeline")
    op.execute("""
        revoke all on
            public.customer_profiles, public.customer_activity, public.labels, public.stores, public.sales,
            public.monthly_sales, public.feature_store
        from pipeline
    """)
    op.execute("revoke all on schema public, staging, pipeline from pipeline")
    op.execute("""
        do $$
        begin
            execute format('revoke all on database %I from pipeline', current_database());
        end
        $$
    """)
    drop_roles_unless_they_are_needed(LOGIN)


def set_staging(persistence: str) -> None:
    op.execute(f"""
        do $$
        declare
            staged regclass;
        begin
            for staged in
                select oid from pg_catalog.pg_class where relnamespace = 'staging'::regnamespace and relkind = 'r'
            loop
                execute format('truncate %s', staged);
                execute format('alter table %s set {persistence}', staged);
            end loop;
        end
        $$
    """)
