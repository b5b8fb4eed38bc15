"""What each user may do, tried by logging in over TCP and doing it."""

import psycopg
import pytest
from conftest import Database
from psycopg.errors import InsufficientPrivilege

TABLES = [
    "customer_profiles",
    "customer_activity",
    "labels",
    "stores",
    "sales",
    "monthly_sales",
    "feature_store",
]


@pytest.mark.parametrize("user", ["ds_user", "mle_user", "admin"])
def test_a_wrong_password_is_refused(database: Database, user: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        database.connect(user, "wrong")


@pytest.mark.parametrize("table", TABLES)
def test_ds_user_reads_every_table_and_writes_none(database: Database, table: str) -> None:
    assert database.run(f"select count(*) from {table}", user="ds_user") == [(0,)]
    column = database.run(
        f"select attname from pg_attribute where attrelid = 'public.{table}'::regclass and attnum = 1"
    )[0][0]
    for statement in (
        f"insert into {table} select * from {table}",
        f"update {table} set {column} = {column}",
        f"delete from {table}",
        f"truncate {table}",
        f"drop table {table}",
        f"alter table {table} add column extra int",
    ):
        with pytest.raises(InsufficientPrivilege):
            database.run(statement, user="ds_user")


@pytest.mark.parametrize(
    "statement",
    [
        "create table public.mine (idx int)",
        "create temporary table mine (idx int)",
        "create view public.mine as select 1",
        "create schema mine",
        "create role mine",
    ],
)
def test_ds_user_creates_nothing(database: Database, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        database.run(statement, user="ds_user")


@pytest.mark.parametrize("creator", ["admin", "mle_user", "mle_user acting as its role"])
def test_a_table_that_is_created_later_is_read_by_ds_user_and_managed_by_mle_user(
    database: Database, creator: str
) -> None:
    with database.connect(creator.split()[0]) as connection:
        if "acting" in creator:
            connection.execute("set role mle_user_role")
        connection.execute("create table public.later (idx serial, word text)")
        connection.execute("create function public.later_function() returns int language sql return 1")
    database.run("insert into later (word) values ('a')", user="mle_user")
    database.run("update later set word = 'b'", user="mle_user")
    assert database.run("select idx, word from later", user="ds_user") == [(1, "b")]
    assert database.run("select public.later_function()", user="mle_user") == [(1,)]
    with pytest.raises(InsufficientPrivilege):
        database.run("delete from later", user="ds_user")
    database.run("truncate later", user="mle_user")
    database.run("drop table later", user="admin")


@pytest.mark.parametrize("table", TABLES)
def test_mle_user_writes_every_table(database: Database, table: str) -> None:
    database.run(f"insert into {table} select * from {table}", user="mle_user")
    database.run(f"delete from {table}", user="mle_user")
    database.run(f"truncate {table}", user="mle_user")


def test_mle_user_creates_tables_sequences_functions_and_views_in_public(database: Database) -> None:
    for statement in (
        "create table public.own (idx int primary key)",
        "create sequence public.own_numbers",
        "create view public.own_view as select idx from feature_store",
        "create function public.own_function() returns int language sql return 1",
        "create temporary table scratch (idx int)",
    ):
        database.run(statement, user="mle_user")


@pytest.mark.parametrize("user", ["ds_user", "mle_user"])
@pytest.mark.parametrize(
    "statement",
    [
        "select * from migrations.alembic_version",
        "delete from migrations.alembic_version",
        "select * from staging.labels",
        "truncate staging.labels",
        "create table staging.mine (idx int)",
        "select pipeline.prepare_month('2024-01-01')",
        "create table partitions.mine (idx int)",
    ],
)
def test_users_cannot_touch_the_pipelines_own_schemas(database: Database, user: str, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        database.run(statement, user=user)


def test_public_holds_the_seven_tables_and_nothing_else(database: Database) -> None:
    found = database.run("select relname from pg_class where relnamespace = 'public'::regnamespace and relkind <> 'i'")
    assert sorted(name for (name,) in found) == sorted(TABLES)


def test_every_table_and_column_has_a_comment(database: Database) -> None:
    silent = database.run("""
        select attrelid::regclass, attname
        from pg_attribute
        join pg_class on pg_class.oid = attrelid
        where relnamespace::regnamespace::text in ('public', 'staging') and relkind in ('r', 'p')
          and attnum > 0 and not attisdropped
          and (col_description(attrelid, attnum) is null or obj_description(attrelid, 'pg_class') is null)
    """)
    assert silent == []
