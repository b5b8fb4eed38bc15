"""Migrations up, down and up, by a superuser and by the admin of a managed PostgreSQL."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, Database, Files, alembic, head, new_database
from support.steps import load_customers, load_month
from support.system import LONGEST_WAIT, wait_for

from embedded.postgres import Cluster

pytestmark = pytest.mark.slow

SCHEMA = """
    select 'table', table_schema || '.' || table_name || '.' || column_name, data_type
    from information_schema.columns where table_schema in ('public', 'staging')
    union all
    select 'grant', grantee || ' on ' || table_name, privilege_type
    from information_schema.role_table_grants where table_schema = 'public' and grantee like '%\\_role'
    union all
    select 'default', concat(defaclrole::regrole, defaclobjtype), defaclacl::text from pg_default_acl
    union all
    select 'function', oid::regprocedure::text, prosrc from pg_proc
    where pronamespace::regnamespace::text in ('pipeline', 'public')
    order by 1, 2, 3
"""


def upgrade_downgrade_upgrade(database: Database, user: str) -> None:
    for steps in (["upgrade", "head"], ["upgrade", "head"]):
        done = database.alembic(*steps, user=user)
        assert done.returncode == 0, done.stderr
    first = database.run(SCHEMA)
    assert len(first) > 50
    for steps in (["downgrade", "base"], ["upgrade", "head"]):
        done = database.alembic(*steps, user=user)
        assert done.returncode == 0, done.stderr
    assert database.run(SCHEMA) == first


def test_up_up_down_up_as_superuser(empty_database: Database) -> None:
    upgrade_downgrade_upgrade(empty_database, "admin")


def test_up_up_down_up_as_an_admin_that_is_no_superuser(managed: Database) -> None:
    upgrade_downgrade_upgrade(managed, "managed")
    managed.run("create table public.later (idx int)", user="mle_user")
    assert managed.run("select count(*) from later", user="ds_user") == [(0,)]
    managed.run("drop table public.later", user="managed")


def test_downgrade_removes_everything_but_the_version_table(managed: Database) -> None:
    for steps in (["upgrade", "head"], ["downgrade", "base"]):
        done = managed.alembic(*steps, user="managed")
        assert done.returncode == 0, done.stderr
    assert managed.run("""
        select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' order by 1
    """) == [("migrations",), ("public",)]
    assert managed.run("select rolname from pg_roles where rolname ~ '^(ds|mle)_user'") == []


def test_a_downgrade_drops_what_is_staged(managed: Database) -> None:
    assert managed.alembic("upgrade", "head", user="managed").returncode == 0
    for table, month in (("labels", "null"), ("sales", "'2024-02-01'")):
        begin = f"select pipeline.begin_load('{table}', {month}, 'https://bucket', 'x', 'x')"
        [(load,)] = managed.run(begin, user="pipeline")
        managed.run(f"select pipeline.create_staged({load})", user="pipeline")
    for revision in ("0103", "base"):
        done = managed.alembic("downgrade", revision, user="managed")
        assert done.returncode == 0, done.stderr
    assert managed.run("select to_regnamespace('staging'), to_regclass('public.sales')") == [(None, None)]


def test_a_role_that_still_owns_something_survives_the_downgrade_and_is_adopted_again(managed: Database) -> None:
    assert managed.alembic("upgrade", "head", user="managed").returncode == 0
    managed.run("create table public.kept (idx int)", user="mle_user")
    for steps in (["downgrade", "base"], ["upgrade", "head"]):
        done = managed.alembic(*steps, user="managed")
        assert done.returncode == 0, done.stderr
    assert managed.run("select count(*) from kept", user="ds_user") == [(0,)]


def test_roles_of_the_server_are_adopted_with_the_passwords_of_the_environment(managed: Database) -> None:
    managed.run("create role ds_user_role", user="managed")
    managed.run("create role ds_user", user="managed")
    done = managed.alembic("upgrade", "head", user="managed", DS_USER_PASSWORD="it's: a %secret")
    assert done.returncode == 0, done.stderr
    with managed.connect("ds_user", "it's: a %secret") as connection:
        assert connection.execute("select count(*) from data_freshness").fetchone() == (8,)
    with pytest.raises(psycopg.OperationalError):
        managed.connect("ds_user", "ds_user")


def test_passwords_come_from_the_environment_or_are_the_documented_defaults(managed: Database) -> None:
    for environment, password in (({}, "pipeline-laptop"), ({"PIPELINE_PASSWORD": "chosen"}, "chosen")):
        assert managed.alembic("upgrade", "head", user="managed", **environment).returncode == 0
        with managed.connect("pipeline", password) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert managed.alembic("downgrade", "base", user="managed").returncode == 0


def test_rows_survive_a_downgrade_to_each_revision_that_has_their_tables_and_loads_go_on(
    database: Database, files: Files
) -> None:
    files.write("stores.csv", "idx,location\n1,Porto\n")
    files.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c\n1,1,A,x\n")
    files.write("customer_activity.csv", "idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,1,1\n")
    files.write("labels.csv", "idx,label\n1,0\n")
    for month in ("2024-01-01", "2024-02-01"):
        files.write(f"sales/{month}/sales.csv", f"idx,value,date,store_idx\n2,2,{month},1\n")
        load_month(database, month)
    load_customers(database)
    # The file changes, so that the next list of stores lacks one that sales of January have.
    files.write("stores.csv", "idx,location\n2,Faro\n")
    files.write("sales/2024-02-01/sales.csv", "idx,value,date,store_idx\n2,2,2024-02-01,2\n")
    rows = """
        select
            (select count(*) from public.sales), (select count(*) from public.monthly_sales),
            (select array_agg(idx order by idx) from public.stores), (select count(*) from public.labels)
    """
    # The second way down runs all that the tables of sales outlast.
    for revision in (int(head()) - 1, 106, 105, 104):
        for step in (["downgrade", f"{revision:04}"], ["upgrade", "head"]):
            done = database.alembic(*step)
            assert done.returncode == 0, done.stderr
        load_month(database, "2024-02-01")
        sales_kept, customers_kept = revision >= 106, revision >= 105
        months = 2 if sales_kept else 1
        stores = [1, 2] if sales_kept else [2]
        assert database.run(rows, "ds_user") == [(months, months, stores, int(customers_kept))], revision
        found = database.run("select file_month::text, status from month_status", "ds_user")
        assert found == [("2024-01-01", "loaded"), ("2024-02-01", "loaded")][-months:], revision


def psql(database: Database, text: str) -> subprocess.CompletedProcess[str]:
    command = [str(database.cluster.programs / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", database.url()]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_the_printed_sql_does_what_the_migrations_do(empty_database: Database, template: Database) -> None:
    def schema(database: Database) -> str:
        command = [str(database.cluster.programs / "pg_dump"), "--schema-only", database.url()]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.M)

    printed = empty_database.alembic("upgrade", "head", "--sql", PIPELINE_PASSWORD="not to be printed")
    assert printed.returncode == 0, printed.stderr
    assert "not to be printed" not in printed.stdout
    done = psql(empty_database, printed.stdout)
    assert done.returncode == 0, done.stderr
    assert schema(empty_database) == schema(template)
    assert empty_database.alembic("current").stdout == f"{head()} (head)\n"

    printed = empty_database.alembic("downgrade", "head:base", "--sql")
    done = psql(empty_database, printed.stdout)
    assert done.returncode == 0, done.stderr
    assert empty_database.run("select count(*) from pg_tables where schemaname = 'public'") == [(0,)]


ASKING_THE_DATABASE = (["upgrade", "head"], ["downgrade", "base"], ["current"], ["stamp", "head"])


@pytest.fixture
def demanding(tmp_path: Path) -> str:
    """A copy of the migrations for which every server is too old; the path of its alembic.ini."""
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    environment = tmp_path / "alembic/env.py"
    text = environment.read_text()
    raised = re.sub(r"^OLDEST_SERVER = \d+$", "OLDEST_SERVER = 99", text, flags=re.M)
    assert raised != text
    environment.write_text(raised)
    return str(tmp_path / "alembic.ini")


def too_old(database: Database) -> str:
    """What is said of the server of the tests."""
    [(version,)] = database.run("show server_version")
    return (
        f"server is PostgreSQL {version}. This project needs PostgreSQL 99 or later. Nothing was migrated. "
        "Upgrade the server (docs/operations.md, Upgrades), or name another one.\n"
    )


@pytest.mark.parametrize("command", ASKING_THE_DATABASE, ids=" ".join)
def test_a_server_that_is_too_old_is_named_before_anything_is_made(
    command: list[str], empty_database: Database, demanding: str
) -> None:
    done = empty_database.alembic("-c", demanding, *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: the {too_old(empty_database)}"
    assert empty_database.run("select to_regnamespace('migrations')") == [(None,)]


def test_the_printed_sql_makes_nothing_on_a_server_that_is_too_old(empty_database: Database, demanding: str) -> None:
    done = psql(empty_database, empty_database.alembic("-c", demanding, "upgrade", "head", "--sql").stdout)
    assert done.returncode != 0
    assert f"ERROR:  The {too_old(empty_database)}" in done.stderr
    assert empty_database.run("select to_regnamespace('migrations')") == [(None,)]


OF_ANOTHER_CHECKOUT = (
    "create schema migrations",
    "create table migrations.alembic_version (version_num varchar(32) primary key)",
    # A database of before: no revision may have one of its ids again.
    "insert into migrations.alembic_version values ('0014')",
)
REJECTED = (
    "error: the database is at revision 0014, which this checkout does not have. Nothing was migrated. Use the "
    "checkout that made the database, or make a new database and load the files again.\n"
)


@pytest.mark.parametrize("command", ASKING_THE_DATABASE, ids=" ".join)
def test_a_database_of_another_checkout_is_left_as_it_is(command: list[str], empty_database: Database) -> None:
    for statement in OF_ANOTHER_CHECKOUT:
        empty_database.run(statement)
    done = empty_database.alembic(*command)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", REJECTED)
    assert empty_database.run("select relname from pg_class where relnamespace = 'migrations'::regnamespace") == [
        ("alembic_version",),
        ("alembic_version_pkey",),
    ]
    assert empty_database.run("select version_num from migrations.alembic_version") == [("0014",)]
    assert empty_database.run("select to_regnamespace('pipeline')") == [(None,)]


def test_the_printed_sql_changes_nothing_in_a_database_at_another_revision(empty_database: Database) -> None:
    for statement in OF_ANOTHER_CHECKOUT:
        empty_database.run(statement)
    for arguments, start in ((["upgrade", "head"], "base"), (["downgrade", "head:base"], head())):
        done = psql(empty_database, empty_database.alembic(*arguments, "--sql").stdout)
        assert done.returncode != 0
        assert (
            f"ERROR:  The database is at revision 0014, and this script starts at {start}. Nothing was migrated. Print "
            "a script that starts at 0014 in a checkout that has it, or make a new database and load the files again.\n"
        ) in done.stderr
        assert empty_database.run("select to_regclass('migrations.guard')") == [(None,)]


@pytest.mark.parametrize("attribute", ["superuser", "createrole", "in role admin"])
def test_a_privileged_role_of_the_server_is_not_adopted(attribute: str) -> None:
    with Cluster.temporary() as cluster:
        database = new_database(cluster, "companydata")
        database.run(f"create role pipeline login {attribute}")
        done = database.alembic("upgrade", "head")
        assert done.returncode != 0
        assert "The server has a role pipeline" in done.stderr
        assert database.run("select to_regclass('migrations.alembic_version')") == [(None,)]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_an_address_need_not_name_the_driver(scheme: str, empty_database: Database) -> None:
    done = alembic(f" {empty_database.url(driver=scheme)}\n", "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert empty_database.run("select version_num from migrations.alembic_version") == [(head(),)]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql+asyncpg://u:hidden@h/d", "begins with postgresql+asyncpg://, which is not supported"),
        ("postgresql+psycopg://u:hidden@h/d", "begins with postgresql+psycopg://, which is not supported"),
        ("mysql://u:hidden@h/d", "begins with mysql://, which is not supported"),
        ("sqlite:///hidden.db", "begins with sqlite://, which is not supported"),
        ("u:hidden@h/d", "is no address of a database"),
        ("postgresql://u:hidden@h:port/d", "is no address of a database"),
    ],
)
def test_an_address_of_another_database_or_driver_is_answered_with_a_sentence(url: str, problem: str) -> None:
    done = alembic(url, "upgrade", "head")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: DATABASE_URL {problem}. Nothing was migrated. Write it as "
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE.\n"
    )


def test_two_upgrades_at_once_both_succeed(empty_database: Database) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_database.url(driver="postgresql+psycopg2")}
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=LONGEST_WAIT)
        assert process.returncode == 0, errors
    assert empty_database.run("select version_num from migrations.alembic_version") == [(head(),)]


@pytest.mark.parametrize("other_checkout", [False, True], ids=["of this checkout", "of another checkout"])
def test_an_upgrade_waits_for_another_one_longer_than_a_transaction_may_take(
    other_checkout: bool, empty_database: Database
) -> None:
    def waits() -> bool:
        return bool(
            elsewhere.execute(
                "select from pg_stat_activity where datname = %s and wait_event_type = 'Lock' "
                "and clock_timestamp() - xact_start > '1s'",
                [empty_database.name],
            ).fetchall()
        )

    assert empty_database.alembic("current").returncode == 0
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    environment = {**os.environ, "DATABASE_URL": empty_database.url(driver="postgresql+psycopg2")}
    with empty_database.cluster.connect("postgres") as elsewhere, empty_database.connect() as other:
        elsewhere.execute(f"alter database {empty_database.name} set transaction_timeout = '500ms'".encode())
        with other.transaction():
            other.execute("lock table migrations.guard in share row exclusive mode")
            upgrade = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
            wait_for(lambda: waits() or upgrade.poll() is not None)
            if other_checkout:
                for statement in OF_ANOTHER_CHECKOUT[1:]:
                    other.execute(statement)
        _, errors = upgrade.communicate(timeout=LONGEST_WAIT)
        [(migrated,)] = other.execute("select to_regnamespace('pipeline') is not null").fetchall()
    if other_checkout:
        assert (upgrade.returncode, errors, migrated) == (1, REJECTED, False)
    else:
        assert (upgrade.returncode, migrated) == (0, True), errors


def test_a_downgrade_leaves_the_roles_that_another_database_uses(empty_database: Database, template: Database) -> None:
    assert empty_database.alembic("upgrade", "head").returncode == 0
    assert empty_database.alembic("downgrade", "base").returncode == 0
    assert template.run("select count(*) from data_freshness", user="ds_user") == [(8,)]


NOT_OURS = {
    "the schema belongs to another role": """
        alter schema public owner to other;
        grant create on schema public to public, managed
    """,
    "the database belongs to another role": """
        alter database companydata owner to other;
        grant create on database companydata to managed;
        grant create on schema public to managed
    """,
    "another role has granted it": """
        grant create on schema public to other with grant option;
        set role other;
        grant create on schema public to public
    """,
}


@pytest.mark.parametrize("statements", NOT_OURS.values(), ids=NOT_OURS)
def test_a_privilege_that_cannot_be_set_stops_the_upgrade_with_the_commands_that_set_it(
    managed: Database, statements: str
) -> None:
    managed.run("create role other")
    managed.run(statements)
    failed = managed.alembic("upgrade", "head", user="managed")
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    [named] = re.findall(r"then run the migration again: (.*)", failed.stderr)
    commands = re.findall(r"(.+?) \(as (\w+)\)(?:; |$)", named)
    assert "other" in {role for _, role in commands}
    assert managed.run("select version_num from migrations.alembic_version") == [("0101",)]
    for command, role in commands:
        managed.run(f"set role {role}; {command}")
    done = managed.alembic("upgrade", "head", user="managed")
    assert done.returncode == 0, done.stderr
    for statement in ("create table public.mine (idx int)", "create temporary table mine (idx int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            managed.run(statement, user="ds_user")


def test_what_belongs_to_others_is_left_alone_and_named(managed: Database) -> None:
    for statement in (
        "create role other",
        "grant create on schema public to other",
        "create function public.of_superuser(int) returns int language sql return 1",
        "revoke execute on function public.of_superuser from public",
        'create table public."Of other" (idx serial)',
        'alter table public."Of other" owner to other',
        "create view public.of_superuser as select 1 as one",
        "create extension if not exists pg_trgm",
    ):
        managed.run(statement)
    privileges = """
        select relname::text, relacl::text from pg_class where relnamespace = 'public'::regnamespace
        and relowner::regrole::text in ('admin', 'other')
        union all
        select oid::regprocedure::text, proacl::text from pg_proc where pronamespace = 'public'::regnamespace
        and proowner::regrole::text = 'admin'
        order by 1
    """
    before = managed.run(privileges)
    for steps in (["upgrade", "head"], ["downgrade", "base"]):
        done = managed.alembic(*steps, user="managed")
        assert done.returncode == 0, done.stderr
        for name, owner in (
            ("routine public.of_superuser(integer)", "admin"),
            ("routine public.similarity(text,text)", "admin"),
            ("table public.of_superuser", "admin"),
            ('table public."Of other"', "other"),
            ('sequence public."Of other_idx_seq"', "other"),
        ):
            assert f"NOTICE:  {name} belongs to {owner}, so it was left as it is." in done.stderr
        assert managed.run(privileges) == before


def test_an_upgrade_that_has_nothing_to_report_prints_no_notice(empty_database: Database) -> None:
    assert empty_database.alembic("upgrade", "head").returncode == 0
    done = empty_database.alembic("upgrade", "head")
    assert (done.returncode, done.stderr.count("NOTICE")) == (0, 0), done.stderr


def test_an_adopted_login_inherits_the_privileges_of_its_role(managed: Database) -> None:
    managed.run("create role mle_user noinherit", user="managed")
    assert managed.alembic("upgrade", "head", user="managed").returncode == 0
    managed.run("create table public.later (idx int)", user="mle_user")
    assert managed.run("select count(*) from later", user="ds_user") == [(0,)]
