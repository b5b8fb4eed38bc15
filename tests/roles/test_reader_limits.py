"""What a login that only reads cannot do to the others: fill the disk or the server's tables, take all connections."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import psycopg
import pytest
from conftest import DEFAULT_PASSWORDS, Database, drop_database, new_database
from psycopg.errors import CheckViolation, InsufficientPrivilege, ReservedName
from support.breakpoints import wait_until_nothing_is_left

from company_data.settings import CONNECTION_OPTIONS
from embedded.postgres import Cluster

pytestmark = pytest.mark.slow

LIMIT = 20  # connections of one login


@pytest.fixture(scope="module")
def migrated(cluster: Cluster) -> Iterator[Database]:
    """A database that was upgraded, downgraded and upgraded again."""
    database = new_database(cluster, "test_moved")
    database.migrate("upgrade head", "downgrade base", "upgrade head")
    yield database
    drop_database(database)


def test_a_reader_is_denied_what_fills_the_server_or_stops_others(template: Database, migrated: Database) -> None:
    denied = (
        *("select lo_create(0)", "select lo_creat(-1)", "select lo_from_bytea(0, 'x')"),
        "select pg_logical_emit_message(false, 'x', repeat('x', 1000))",
        "select pg_logical_emit_message(false, 'x', 'x'::bytea)",
        "select pg_advisory_lock(n) from generate_series(1, 100) as n",
        *("select pg_advisory_xact_lock_shared(1, 1)", "select pg_try_advisory_lock(1)"),
        *("set temp_file_limit = -1", "alter role ds_user reset temp_file_limit", "set log_min_messages = debug5"),
        *("alter role ds_user connection limit -1", "create temporary table mine (idx integer)"),
        *("begin; lock table migrations.guard", "select * from migrations.guard"),
        *("create statistics on idx, label from public.labels", "comment on table public.sales is 'x'"),
        *("begin; lock table public.sales in row share mode", "select * from public.data_freshness for update"),
    )
    for database, statement in product((template, migrated), denied):
        with pytest.raises(InsufficientPrivilege):
            assert database.run(statement, "ds_user") is None, statement


@pytest.mark.parametrize("login", ["ds_user", "mle_user"])
def test_each_login_has_limits(login: str, migrated: Database) -> None:
    shown = "select current_setting('temp_file_limit'), current_setting('idle_in_transaction_session_timeout')"
    assert migrated.run(shown, login) == [("2GB", "1h")]
    with ExitStack() as sessions:
        for _ in range(LIMIT):
            sessions.enter_context(migrated.connect(login))
        with pytest.raises(psycopg.OperationalError, match=f'too many connections for role "{login}"'):
            migrated.connect(login)


def test_what_readers_are_denied_is_left_to_those_who_write_and_stops_no_upgrade(migrated: Database) -> None:
    for login in ("mle_user", "pipeline"):
        assert migrated.run("select pg_try_advisory_lock(1)", login) == [(True,)]
        [(number,)] = migrated.run("select lo_create(0)", login)
        migrated.run(f"select lo_unlink({number})", login)
    with migrated.connect("mle_user") as connection:
        connection.execute("select pg_advisory_lock(hashtext('companydata.migrations'))")
        migrated.migrate("upgrade head", PGOPTIONS="-c statement_timeout=10s")


def test_readers_that_take_all_connections_leave_those_of_the_pipeline() -> None:
    settings = {"max_connections": "30", "superuser_reserved_connections": "2", "reserved_connections": "5"}
    with Cluster.temporary(settings) as cluster, ExitStack() as sessions:
        database = new_database(cluster, "companydata")
        database.migrate("upgrade head")
        for login in ("ds_user",) * LIMIT + ("mle_user",) * 3:
            sessions.enter_context(database.connect(login))
        with pytest.raises(psycopg.OperationalError, match="remaining connection slots are reserved"):
            database.connect("mle_user")
        for _ in range(5):
            sessions.enter_context(database.connect("pipeline"))
        sessions.enter_context(database.connect("admin"))


def test_a_reader_writes_nothing_into_the_servers_log(migrated: Database) -> None:
    log = migrated.cluster.log
    before = log.stat().st_size
    with migrated.connect("ds_user") as connection:
        connection.execute("do $$ begin raise log '%', repeat('x', 1000000); end $$")
        with pytest.raises(psycopg.Error):
            connection.execute(f"select nothing /* {'x' * 1_000_000} */")
    assert log.stat().st_size - before < 100_000


def test_a_training_set_has_a_limited_size(database: Database) -> None:
    database.run("insert into pipeline.feature_store_builds (known_at) values (now())")
    too_large = "more than 100 characters or the query more than 20,000"
    with database.connect("ds_user") as connection:
        for name, query in (("n" * 101, "select 1"), ("n", f"select 1 /* {'x' * 20_000} */")):
            with pytest.raises(CheckViolation, match=too_large):
                connection.execute("select make_training_set(%s, %s)", [name, query])


def test_a_session_that_is_named_after_a_dead_load_does_not_make_it_look_alive(database: Database) -> None:
    begin = "select pipeline.begin_load('labels', null, 'x', 'x', 'x')"
    for login in ("ds_user", "mle_user"):
        with psycopg.connect(database.url("pipeline"), autocommit=True, options=CONNECTION_OPTIONS) as loading:
            [(load,)] = loading.execute(begin).fetchall()
            assert database.run(f"select pipeline.is_running({load})") == [(True,)]
        wait_until_nothing_is_left(database)
        with psycopg.connect(database.url(login), application_name=f"load {load}"):
            database.run(begin, "pipeline")
            assert database.run(f"select status from pipeline.loads where load_id = {load}") == [("failed",)]


def test_limits_that_only_a_superuser_sets_are_named_in_notices_with_their_commands(managed: Database) -> None:
    printed = managed.migrate("upgrade head", user="managed")
    assert managed.run("select pg_try_advisory_lock(1)", "ds_user") == [(True,)]
    notices = [line.partition("run: ")[2] for line in printed.splitlines() if "As a superuser, run: " in line]
    assert len(notices) == 7
    for commands in notices:
        managed.run(commands)
    for statement in ("select lo_create(0)", "select pg_try_advisory_lock(1)", "set temp_file_limit = -1"):
        with pytest.raises(InsufficientPrivilege):
            managed.run(statement, "ds_user")
    assert managed.run("show temp_file_limit", "ds_user") == [("2GB",)]
    with pytest.raises(ReservedName):
        managed.run("create domain public.repeat_training_set as text", "mle_user")
    assert managed.run("select pg_has_role('pipeline', 'pg_use_reserved_connections', 'usage')") == [(True,)]
    # A second upgrade accepts this membership of pipeline, and no other.
    managed.migrate("downgrade base", "upgrade head", user="managed")


def test_the_documented_logins_are_those_that_are_limited(migrated: Database) -> None:
    """A login that is added later has no limits by itself; docs/server.md has the commands."""
    limited = migrated.run("select rolname from pg_roles where rolconnlimit > 0 order by rolname")
    assert limited == [("ds_user",), ("mle_user",)]
    assert set(DEFAULT_PASSWORDS) == {"pipeline"}
