"""What each user may do, tried by logging in over TCP and doing it."""

import re
from collections.abc import Iterator

import pytest
from conftest import ROOT, Database, Files, copied
from psycopg.errors import InsufficientPrivilege
from support import csv_text
from support.steps import load_month

TABLES = [
    *("customer_profiles", "customer_activity", "labels", "stores", "sales"),
    *("monthly_sales", "feature_history", "feature_store"),
]


@pytest.fixture(scope="module")
def opened(template: Database) -> Iterator[Database]:
    """A database whose features have been built, for what changes nothing; see features/test_first_publication.py."""
    with copied(template, "test_opened") as database:
        database.open_to_readers()
        yield database


def assert_denied(database: Database, user: str, *statements: str) -> None:
    with database.connect(user) as connection:
        for statement in statements:
            try:
                connection.execute(statement.encode())
            except InsufficientPrivilege:
                continue
            pytest.fail(f"{user} may {statement}")


def test_ds_user_reads_every_table_writes_none_and_creates_nothing(opened: Database) -> None:
    for table in TABLES:
        assert opened.run(f"select count(*) from {table}", user="ds_user") == [(0,)]
        column = "store_idx" if table in ("sales", "monthly_sales") else "idx"
        assert_denied(
            opened,
            "ds_user",
            f"insert into {table} select * from {table}",
            f"update {table} set {column} = {column}",
            *(f"{statement} {table}" for statement in ("delete from", "truncate", "drop table")),
            f"alter table {table} add column extra int",
        )
    creates = ("table public.mine (idx int)", "temporary table mine (idx int)", "view public.mine as select 1")
    assert_denied(opened, "ds_user", *(f"create {what}" for what in (*creates, "schema mine", "role mine")))


@pytest.mark.parametrize("creator", ["admin", "mle_user", "mle_user acting as its role"])
def test_a_table_that_is_created_later_is_read_by_ds_user_and_managed_by_mle_user(
    database: Database, creator: str
) -> None:
    with database.connect(creator.split()[0]) as connection:
        if "acting" in creator:
            connection.execute("set role mle_user_role")
        connection.execute("""
            create table public.later (idx serial, word text);
            create function public.later_function() returns int language sql return 1;
            create view public.later_view as select idx from public.later;
            create temporary table scratch (idx int)
        """)
    database.run("insert into later (word) values ('a')", user="mle_user")
    database.run("update later set word = 'b'", user="mle_user")
    assert database.run("select idx, word from later", user="ds_user") == [(1, "b")]
    assert database.run("select public.later_function(), idx from later_view", user="mle_user") == [(1, 1)]
    with pytest.raises(InsufficientPrivilege):
        database.run("delete from later", user="ds_user")
    database.run("truncate later", user="mle_user")
    database.run("drop table later cascade", user="admin")


def test_mle_user_writes_every_table(opened: Database) -> None:
    for table in TABLES:
        for statement in (f"insert into {table} select * from {table}", f"delete from {table}", f"truncate {table}"):
            opened.run(statement, user="mle_user")


def test_users_cannot_touch_the_pipelines_own_schemas(opened: Database) -> None:
    functions = (
        *("begin_load('labels', null, 'x', 'x', 'x')", "stage_load(1, null, null, 1, 'x', 1)", "publish_load(1)"),
        *("create_staged(1)", "drop_staged(1)", "clean_up()", "retire_load(1)", "decide_load(1, true, 'me')"),
        "open_feature_store()",
    )
    denied = (
        *("select * from migrations.alembic_version", "delete from migrations.alembic_version"),
        *("select * from staging.labels", "truncate staging.labels", "create table staging.mine (idx int)"),
        *("delete from partitions.sales_before_all_months", "create table partitions.mine (idx int)"),
        *(f"select pipeline.{function}" for function in functions),
        *("select * from pipeline.loads", "set role pipeline"),
    )
    for user in ("ds_user", "mle_user"):
        assert_denied(opened, user, *denied)


def test_public_holds_the_tables_and_the_views_of_their_state_and_nothing_else(template: Database) -> None:
    found = template.run("select relname from pg_class where relnamespace = 'public'::regnamespace and relkind <> 'i'")
    assert sorted(name for (name,) in found) == sorted(
        [*TABLES, "data_freshness", "data_statistics", "feature_rows", "month_status", "training_sets"]
    )


def test_the_pipelines_login_can_do_no_more_than_loads_need(opened: Database) -> None:
    created = ("public.mine", "staging.mine", "staging.labels_1", "partitions.mine")
    truncated = ("public.sales", "public.monthly_sales", "public.stores", "public.customer_profiles")
    deleted = ("public.stores", "pipeline.files", "pipeline.loads", "pipeline.feature_store_builds")
    updated = (
        *(
            "public.sales set value = 1",
            "public.monthly_sales set value = 1",
            "public.customer_profiles set attr_a = 1",
        ),
        *("public.labels set label = 1", "pipeline.loads set file_id = 1", "pipeline.loads set run_id = 'x'"),
        *("pipeline.loads set staged_table = 'public.sales'", "pipeline.loads set started_at = now()"),
        *("pipeline.sources set published_with = null", "pipeline.files set table_name = 'labels'"),
        "migrations.alembic_version set version_num = '0001'",
    )
    inserted = (
        *("sources values ('evil', 'x', null)", "files (table_name) values ('labels')"),
        "loads (file_id, dag_id, run_id, source_url, staged_table) values (1, 'x', 'x', 'x', 'x')",
    )
    altered = (
        *("role ds_user password 'x'", "role pipeline createrole"),
        "default privileges for role admin grant select on tables to public",
        *("table public.sales add column extra int", "table staging.labels add column extra int"),
        "table public.sales detach partition partitions.sales_before_all_months",
    )
    assert_denied(
        opened,
        "pipeline",
        *(f"create table {table} (idx int)" for table in created),
        *(f"truncate {table}" for table in truncated),
        *(f"update {change}" for change in updated),
        *(f"delete from {table}" for table in (*deleted, "partitions.sales_before_all_months")),
        *(f"insert into pipeline.{row}" for row in inserted),
        *(f"alter {what}" for what in altered),
        *("create schema mine", "create role mine", "drop table public.labels", "set role mle_user_role"),
        "create trigger mine after insert on public.sales execute function pipeline.notice()",
        "create or replace function pipeline.notice(message text) returns void language sql begin atomic end",
        *("select * from migrations.alembic_version", "select pg_read_file('postgresql.conf')"),
        *("set session_replication_role = replica", "copy public.sales to program 'cat'"),
    )


def test_the_pipelines_login_has_these_privileges_on_the_tables(template: Database) -> None:
    """Rows are deleted and inserted, stores are never deleted, and the features are written by difference."""
    found = template.run("""
        select relname, string_agg(lower(privilege_type), ', ' order by privilege_type)
        from pg_class cross join lateral aclexplode(relacl)
        where relnamespace = 'public'::regnamespace and grantee = 'pipeline'::regrole and relkind in ('r', 'p')
        group by relname
    """)
    replaced, by_difference = "delete, insert, select", "delete, insert, select, update"
    assert dict(found) == {
        **dict.fromkeys(("customer_profiles", "customer_activity", "labels", "monthly_sales"), replaced),
        **{"sales": "delete, insert, maintain, select", "stores": "insert, select, update"},
        **dict.fromkeys(("feature_history", "feature_store"), by_difference),
    }


PRIVILEGES_AND_COMMENTS = """
    select relacl::text, obj_description(oid, 'pg_class'),
        (select array_agg(col_description(oid, attnum) order by attnum) from pg_attribute where attrelid = oid)
    from pg_class where oid = 'public.sales'::regclass
"""


def test_what_the_pipeline_makes_belongs_to_its_owner_and_is_read_by_ds_and_mle(
    database: Database, files: Files
) -> None:
    before = database.run(PRIVILEGES_AND_COMMENTS)
    files.write("stores.csv", csv_text.stores("1,Porto"))
    files.write("sales/2024-02-01/sales.csv", csv_text.sales("1,1,2024-02-01,1"))
    for _ in range(2):
        load_month(database, "2024-02-01")
    assert database.run(PRIVILEGES_AND_COMMENTS) == before
    for user in ("ds_user", "mle_user"):
        assert database.run("select count(*) from sales", user=user) == [(1,)]
    assert database.run("select count(*) from pg_class where relowner = 'pipeline'::regrole") == [(0,)]
    # Only its owner has privileges on a partition, and the pipeline that of analyzing it.
    assert database.run("""
        select
            relnamespace::regnamespace::text, relname, relpersistence::text, relchecks, relowner::regrole::text,
            array(
                select concat(grantee::regrole, ' ', privilege_type) from aclexplode(relacl) where grantee <> relowner
            )
        from pg_class join pg_inherits on inhrelid = pg_class.oid where inhparent = 'public.sales'::regclass
        and relname ~ '2024'
    """) == [("partitions", "sales_2024_02", "p", 0, "pipeline_owner", ["pipeline MAINTAIN"])]
    database.run("update sales set value = 2", user="mle_user")
    database.run("drop table partitions.sales_2024_02", user="admin")


def test_readers_have_their_privileges_by_the_default_privileges_alone(template: Database) -> None:
    """From the upgrade on, but for the features; only the function that opens these grants anything to them."""
    found = template.run("""
        with readers as (
            select relname, grantee::regrole::text as grantee, count(*) as privileges
            from pg_class cross join lateral aclexplode(relacl)
            where
                relnamespace = 'public'::regnamespace
                and relkind in ('r', 'p')
                and grantee in ('ds_user_role'::regrole, 'mle_user_role'::regrole)
            group by relname, grantee
        ),
        defaults as (
            select grantee::regrole::text as grantee, count(*) as privileges
            from pg_default_acl cross join lateral aclexplode(defaclacl)
            where defaclrole = 'pipeline_owner'::regrole and defaclobjtype = 'r'
            group by grantee
        )
        select relname from readers join defaults using (grantee, privileges) group by relname having count(*) = 2
    """)
    assert {name for (name,) in found} == set(TABLES) - {"feature_history", "feature_store"}
    granting = template.run("""
        select proname from pg_proc
        where pronamespace = 'pipeline'::regnamespace and prosrc ~ '(?n)(grant|revoke) .*(ds_user|mle_user)'
    """)
    assert granting == [("open_feature_store",)]


def test_functions_with_the_rights_of_their_owner_have_no_rights_on_the_server_and_are_those_of_the_page(
    template: Database,
) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    [rows] = re.findall(r"\| function \| called by \|.*\n\| ---.*\n((?:\|.*\n)+)", page)
    found = template.run("select proname, proowner::regrole::text from pg_proc where prosecdef and oid > 16383")
    assert set(found) == {(name, "pipeline_owner") for name in re.findall(r"^\| `(\w+)`", rows, re.M)}
    assert template.run("""
        select rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
        from pg_roles where rolname = 'pipeline_owner'
    """) == [(False,) * 6]
    memberships = template.run("""
        select member::regrole::text, roleid::regrole::text from pg_auth_members
        where 'pipeline_owner'::regrole in (member, roleid)
    """)
    assert memberships in ([], [("admin", "pipeline_owner")])


def test_mle_user_puts_no_row_trigger_on_a_table_with_partitions(database: Database) -> None:
    """It would be called for each of a month's rows."""
    database.run("create function mine() returns trigger language plpgsql as $$ begin return new; end $$", "mle_user")
    trigger = "create trigger mine before insert or delete on {} for each row execute function public.mine()"
    assert_denied(database, "mle_user", trigger.format("sales"), trigger.format("feature_history"))


def test_what_a_person_made_who_leaves_stays_and_is_read(database: Database) -> None:
    """By the commands of docs/server.md."""
    page = (ROOT / "docs/server.md").read_text()
    [leave] = re.findall(r"-c \"\n(  reassign owned by anna .*?)\"\n```", page, re.S)
    database.run("create role anna login password 'anna' in role mle_user_role")
    try:
        database.run("create table public.of_anna as select 1 as a", "anna")
        database.run("create view public.seen_by_anna as select a from public.of_anna", "anna")
        with pytest.raises(InsufficientPrivilege):
            database.run("select * from of_anna", "ds_user")
        database.run("drop owned by mle_user")
        [default] = re.findall(r"-c '\n  (alter default privileges for role mle_user .*?)'\n", page)
        database.run(default)
        database.run(leave.replace("\\$", "$"))
    finally:
        database.run("drop role if exists anna")
    for user in ("ds_user", "mle_user"):
        assert database.run("select a from seen_by_anna join of_anna using (a)", user) == [(1,)]
    database.run("insert into of_anna values (2)", "mle_user")
    database.run("create table public.later as select 1 as a", "mle_user")
    assert database.run("select a from later", "ds_user") == [(1,)]
