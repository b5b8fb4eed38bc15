"""Migrations up, down and up, by a superuser and by the admin of a managed PostgreSQL."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, Database, alembic, head
from support.breakpoints import wait_for

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
READS_LATER = "select count(*) from later"


def test_up_up_down_up_as_an_admin_that_is_no_superuser(managed: Database) -> None:
    """A downgrade removes everything but the version table, also what is staged, and a role that owns something."""
    managed.migrate("upgrade head", "upgrade head", user="managed")
    first = managed.run(SCHEMA)
    assert len(first) > 50
    for table, month in (("labels", "null"), ("sales", "'2024-02-01'")):
        begin = f"pipeline.begin_load('{table}', {month}, 'https://bucket', 'x', 'x')"
        managed.run(f"select pipeline.create_staged({begin})", user="pipeline")
    managed.migrate("downgrade 0103", "downgrade base", user="managed")
    assert managed.run("""
        select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' order by 1
    """) == [("migrations",), ("public",)]
    assert managed.run("select count(*) from pg_tables where schemaname = 'public'") == [(0,)]
    assert managed.run("select rolname from pg_roles where rolname ~ '^(ds|mle)_user'") == []
    managed.migrate("upgrade head", user="managed")
    assert managed.run(SCHEMA) == first
    # The role of a table that stays survives the downgrade and is adopted again.
    managed.run("create table public.later (idx int)", user="mle_user")
    managed.migrate("downgrade base", "upgrade head", user="managed")
    assert managed.run(READS_LATER, user="ds_user") == [(0,)]


def test_roles_of_the_server_without_privileges_are_adopted_with_the_passwords_of_the_environment(
    managed: Database,
) -> None:
    for role, attribute, error in (
        ("pipeline", "superuser", "The server has a role pipeline"),
        ("mle_user", "createrole", "The server has a role mle_user"),
        ("pipeline", "in role admin", "REVOKE admin from pipeline,"),
        ("ds_user", "in role pg_write_all_data", "REVOKE pg_write_all_data from ds_user,"),
    ):
        managed.run(f"create role {role} login {attribute}")
        done = managed.alembic("upgrade", "head")
        assert done.returncode != 0
        assert error in done.stderr
        assert managed.run("select to_regclass('migrations.alembic_version')") == [(None,)]
        managed.run(f"drop role {role}")
    managed.run("drop schema migrations cascade")
    for role in ("ds_user_role", "ds_user", "mle_user noinherit"):
        managed.run(f"create role {role}", user="managed")
    managed.migrate("upgrade head", DS_USER_PASSWORD="it's: a %secret", user="managed")
    # An adopted login inherits the privileges of its role.
    managed.run("create table public.later (idx int)", user="mle_user")
    with managed.connect("ds_user", "it's: a %secret") as connection:
        assert connection.execute(READS_LATER).fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError):
        managed.connect("ds_user", "ds_user")


def run_printed(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the SQL that alembic prints in psql."""
    printed = database.alembic(*arguments, "--sql", PIPELINE_PASSWORD="not to be printed")
    assert printed.returncode == 0, printed.stderr
    assert "not to be printed" not in printed.stdout
    command = [str(database.cluster.programs / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", database.url()]
    return subprocess.run(command, input=printed.stdout, capture_output=True, text=True, check=False)


def test_the_printed_sql_does_what_the_migrations_do(empty_database: Database, template: Database) -> None:
    done = run_printed(empty_database, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    made, expected = (each.client("pg_dump", "--schema-only", each.url()) for each in (empty_database, template))
    assert made == expected
    assert empty_database.alembic("current").stdout == f"{head()} (head)\n"


ASKING_THE_DATABASE = (["upgrade", "head"], ["current"])


def test_a_server_that_is_too_old_is_named_before_anything_is_made(empty_database: Database, tmp_path: Path) -> None:
    # A copy of the migrations for which every server is too old.
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    environment = tmp_path / "alembic/env.py"
    raised, count = re.subn(r"^OLDEST_SERVER = \d+$", "OLDEST_SERVER = 99", environment.read_text(), flags=re.M)
    assert count == 1
    environment.write_text(raised)
    demanding = ("-c", str(tmp_path / "alembic.ini"))
    [(version,)] = empty_database.run("show server_version")
    too_old = (
        f"server is PostgreSQL {version}. This project needs PostgreSQL 99 or later. Nothing was migrated. "
        "Upgrade the server (docs/upgrade.md), or name another one.\n"
    )
    for command in ASKING_THE_DATABASE:
        done = empty_database.alembic(*demanding, *command)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: the {too_old}")
    done = run_printed(empty_database, *demanding, "upgrade", "head")
    assert done.returncode != 0
    assert f"ERROR:  The {too_old}" in done.stderr
    assert empty_database.run("select to_regnamespace('migrations')") == [(None,)]


OF_ANOTHER_CHECKOUT = (
    "create schema if not exists migrations",
    "create table migrations.alembic_version (version_num varchar(32) primary key)",
    # A database of before: no revision may have one of its ids again.
    "insert into migrations.alembic_version values ('0014')",
)
REJECTED = (
    "error: the database is at revision 0014, which this checkout does not have. Nothing was migrated. Use the "
    "checkout that made the database, which can also take its revisions back (docs/upgrade.md, Roll back), or make a "
    "new database and load the files again.\n"
)


def test_a_database_of_another_checkout_is_left_as_it_is(empty_database: Database) -> None:
    for statement in OF_ANOTHER_CHECKOUT:
        empty_database.run(statement)
    for command in ASKING_THE_DATABASE:
        done = empty_database.alembic(*command)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", REJECTED)
    for arguments, start in ((["upgrade", "head"], "base"), (["downgrade", "head:base"], head())):
        done = run_printed(empty_database, *arguments)
        assert done.returncode != 0
        assert (
            f"ERROR:  The database is at revision 0014, and this script starts at {start}. Nothing was migrated. Print "
            "a script that starts at 0014 in a checkout that has it, or make a new database and load the files again.\n"
        ) in done.stderr
    made = "select relname from pg_class where relnamespace = 'migrations'::regnamespace and relkind = 'r'"
    assert empty_database.run(made) == [("alembic_version",)]
    assert empty_database.run("select version_num, to_regnamespace('pipeline') from migrations.alembic_version") == [
        ("0014", None)
    ]


def test_an_address_need_not_name_the_driver_and_another_one_is_answered_with_a_sentence(template: Database) -> None:
    for scheme in ("postgres", "postgresql"):
        assert alembic(f" {template.url(driver=scheme)}\n", "current").stdout == f"{head()} (head)\n"
    for url, problem in (
        ("postgresql+asyncpg://u:hidden@h/d", "begins with postgresql+asyncpg://, which is not supported"),
        ("u:hidden@h/d", "is not the address of a database"),
        ("postgresql://u:hidden@h:port/d", "is not the address of a database"),
    ):
        done = alembic(url, "upgrade", "head")
        assert done.returncode == 1
        assert done.stderr == (
            f"error: DATABASE_URL {problem}. Nothing was migrated. Write it as "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE.\n"
        )


@pytest.mark.parametrize("other_checkout", [False, True], ids=["of this checkout", "of another checkout"])
def test_two_upgrades_at_once_wait_for_a_third_one_longer_than_a_transaction_may_take(
    other_checkout: bool, empty_database: Database
) -> None:
    empty_database.migrate("current")
    with empty_database.connect() as other, ThreadPoolExecutor() as pool:
        for setting, limit in (("transaction_timeout", "500ms"), ("idle_in_transaction_session_timeout", "1ms")):
            other.execute(f"alter database {empty_database.name} set {setting} = '{limit}'".encode())
        with other.transaction():
            other.execute("lock table migrations.guard in share row exclusive mode")
            upgrades = [pool.submit(empty_database.alembic, "upgrade", "head") for _ in range(2)]
            wait_for(
                empty_database,
                "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
                " and clock_timestamp() - xact_start > '1s'",
                enough=lambda rows: len(rows) == len(upgrades),
            )
            for statement in OF_ANOTHER_CHECKOUT if other_checkout else ():
                other.execute(statement)
    for done in [upgrade.result() for upgrade in upgrades]:
        assert done.returncode == other_checkout, done.stderr
        assert done.stderr == REJECTED or not other_checkout
    assert empty_database.run("select to_regnamespace('pipeline') is null") == [(other_checkout,)]
    found = empty_database.run("select version_num from migrations.alembic_version")
    assert found == [("0014" if other_checkout else head(),)]


def test_a_downgrade_leaves_the_roles_that_another_database_uses(empty_database: Database, template: Database) -> None:
    empty_database.migrate("upgrade head")
    assert "NOTICE" not in empty_database.migrate("upgrade head")  # with nothing to report
    empty_database.migrate("downgrade base")
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
    managed.migrate("upgrade head", user="managed")
    for statement in ("create table public.mine (idx int)", "create temporary table mine (idx int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            managed.run(statement, user="ds_user")


def test_what_belongs_to_others_is_left_alone_and_named(managed: Database) -> None:
    managed.run("""
        create role other;
        grant create on schema public to other;
        create function public.of_superuser(int) returns int language sql return 1;
        revoke execute on function public.of_superuser from public;
        create table public."Of other" (idx serial);
        alter table public."Of other" owner to other;
        create view public.of_superuser as select 1 as one;
        create extension if not exists pg_trgm
    """)
    privileges = """
        select relname::text, relacl::text from pg_class where relnamespace = 'public'::regnamespace
        and relowner::regrole::text in ('admin', 'other')
        union all
        select oid::regprocedure::text, proacl::text from pg_proc where pronamespace = 'public'::regnamespace
        and proowner::regrole::text = 'admin'
        order by 1
    """
    before = managed.run(privileges)
    for step in ("upgrade head", "downgrade base"):
        printed = managed.migrate(step, user="managed")
        for belongs in (
            *("routine public.of_superuser(integer) belongs to admin", "table public.of_superuser belongs to admin"),
            *('table public."Of other" belongs to other', 'sequence public."Of other_idx_seq" belongs to other'),
            "routine public.similarity(text,text) belongs to admin",
        ):
            assert f"NOTICE:  {belongs}, so it was left as it is." in printed
        assert managed.run(privileges) == before
