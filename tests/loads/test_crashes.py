"""The connection, the loading process or the server is lost at a named point: readers see a whole month, a retry works.

What is cut off before its commit leaves the old version; what has committed stays.
"""

import multiprocessing
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest
from conftest import ROOT, Database, FaultyFiles, Files, drop_database, new_database
from support import faulty_bucket, steps
from support.breakpoints import (
    WAIT_SECONDS,
    locks_on_tables,
    paused,
    pausing,
    wait_for,
    wait_until_nothing_is_left,
)
from support.steps import CUSTOMERS, SALES, Run, build_feature_store, load_customers, load_month, staged_tables
from support.transitions import only_listed
from support.versions import FEBRUARY as MONTH
from support.versions import clients_of, path_of, seen, shown, write_customers, write_sales

from company_data import source
from company_data.settings import CONNECTION_OPTIONS
from embedded.postgres import Cluster

pytestmark = pytest.mark.slow

KILLED = "The process that loaded the file was killed."
steps.dag(SALES)  # Airflow reads DAG files in the main thread alone


def newest_load(database: Database) -> tuple[str, str | None]:
    """Status and error of the newest load of the month."""
    loads = f"pipeline.loads join pipeline.files using (file_id) where file_month = '{MONTH}'"
    [found] = database.run(f"select status, error from {loads} order by load_id desc limit 1")
    return found


def month_status(database: Database) -> tuple[str, str | None]:
    """Status and error of the month, as a reader sees them."""
    [found] = database.run(f"select status, error from month_status where file_month = '{MONTH}'", "ds_user")
    return found


class Attempts:
    """One run, whose tasks are tried again as Airflow does: those that have ended are not."""

    def __init__(self, database: Database, dag_id: str = SALES) -> None:
        self.run = Run(database, dag_id, MONTH)
        self.left = self.run.tasks

    def go_on(self, until: str | None = None) -> None:
        """Run the tasks that have not ended, all or those before the named one."""
        while self.left and self.left[0] != until:
            self.run.run(self.left[0])
            self.left = self.left[1:]

    def clear(self) -> None:
        """Let all tasks run again, as clearing the run does."""
        self.left = self.run.tasks


def assert_all_is_as_if_nothing_had_been_cut_off(database: Database, version: int) -> None:
    """The month and the ledger are whole, and nothing is left in staging."""
    assert shown(database) == seen({MONTH: version})
    assert newest_load(database) == ("published", None)
    assert month_status(database) == ("loaded", None)
    assert database.run("select count(*) from pipeline.loads where status = 'loading'") == [(0,)]
    assert staged_tables(database) == []
    wait_until_nothing_is_left(database)


def terminate(database: Database, pid: int) -> None:
    assert database.run(f"select pg_terminate_backend({pid})") == [(True,)]


def drop_at(database: Database, point: str, work: Callable[[], object]) -> None:
    """Do the work until it comes to the point, where its connection drops."""
    with pytest.raises(psycopg.errors.AdminShutdown), paused(database, point, work) as pid:
        terminate(database, pid)
    wait_until_nothing_is_left(database)


# Where a load of a month can be cut off, and the status of its newest load of sales then. A load that had not
# begun leaves none, and the ledger shows the load before it.
POINTS = {"load begun": "published", "load requested": "failed", "load staged": "failed", "load checked": "staged"}
TABLES = ("sales", "monthly_sales")
WRITES = [f"{event} public.{table}" for table in TABLES for event in ("delete", "insert")]
POINTS |= dict.fromkeys(("load published", "insert public.stores", *WRITES, "before commit"), "checked")
STATES = {"published": "loaded", "failed": "failed", "staged": "loading", "checked": "loading"}
CLEARED = ("load requested", "load checked", "insert public.sales")


def test_a_connection_that_drops_at_any_point_leaves_the_old_month_and_the_retry_works(
    database: Database, files: Files
) -> None:
    with only_listed(database):
        write_sales(files, 1)
        first = Attempts(database)
        drop_at(database, "load begun", first.go_on)
        made = "count(*), to_regclass('partitions.sales_2024_02')"
        assert database.run(f"select {made} from pipeline.loads") == [(0, None)]
        drop_at(database, "before commit", first.go_on)
        assert shown(database) == seen({})
        load_month(database, MONTH)
        assert_all_is_as_if_nothing_had_been_cut_off(database, 1)
        statuses = database.run("select status from pipeline.loads order by load_id")
        assert statuses == [("superseded",)] * 2 + [("published",)] * 2
        for version, (point, expected) in enumerate(POINTS.items(), 2):
            print(point)
            write_sales(files, version)
            attempts = Attempts(database)
            drop_at(database, point, attempts.go_on)
            assert shown(database) == seen({MONTH: version - 1})
            status, error = newest_load(database)
            assert status == expected
            assert month_status(database) == (STATES[status], error)
            assert (error is not None) == (status == "failed")
            assert "terminating connection due to administrator command" in str(error) or error is None
            if point in CLEARED:
                attempts.clear()
            attempts.go_on()
            assert_all_is_as_if_nothing_had_been_cut_off(database, version)


def test_a_connection_that_drops_during_the_copy_holds_no_lock_and_leaves_the_old_month(
    database: Database, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "CHUNK_BYTES", 1024)  # so that the copy begins before the file stalls
    write_sales(faulty, 1)
    load_month(database, MONTH)
    write_sales(faulty, 2)
    attempts = Attempts(database)
    released = threading.Event()
    faulty.answers[path_of(MONTH)] = [faulty_bucket.during(lambda: released.wait(WAIT_SECONDS), at=3000)]
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(attempts.go_on)
        try:
            copying = "select pid from pg_stat_progress_copy where datname = current_database()"
            [(pid,)] = wait_for(database, copying, load)
            assert locks_on_tables(database, pid) == set()
            load_month(database, "2024-03-01")
            terminate(database, pid)
            wait_until_nothing_is_left(database)
        finally:
            released.set()
        with pytest.raises(psycopg.OperationalError):
            load.result(WAIT_SECONDS)
    others = {"2024-03-01": 2}
    assert shown(database)[0][:2] == seen({MONTH: 1} | others)[0][:2]
    status, error = newest_load(database)
    assert (status, month_status(database)) == ("failed", ("failed", error))
    attempts.go_on()
    assert shown(database) == seen({MONTH: 2} | others)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12; the child starts no thread
@pytest.mark.parametrize(
    ("point", "task"),
    [("load requested", "stage_sales"), ("insert public.sales", "publish_month")],
)
def test_a_loading_process_that_is_killed_leaves_the_old_month_and_the_retry_works(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch, point: str, task: str
) -> None:
    # The server notices sooner than by default that a client is gone.
    options = f"{CONNECTION_OPTIONS} -c client_connection_check_interval=100ms"
    monkeypatch.setattr(steps, "CONNECTION_OPTIONS", options)
    write_sales(files, 1)
    load_month(database, MONTH)
    write_sales(files, 2)
    attempts = Attempts(database)
    attempts.go_on(until=task)
    with only_listed(database):
        with pausing(database, point) as pause:
            # Not forked.SERVER, whose child would import all of Airflow first.
            process = multiprocessing.get_context("fork").Process(target=attempts.run.run, args=[task])
            process.start()
            pause.wait()
            assert month_status(database) == ("loading", None)
            process.kill()
            process.join(WAIT_SECONDS)
            assert process.exitcode == -signal.SIGKILL
            wait_until_nothing_is_left(database)
        assert shown(database) == seen({MONTH: 1})
        assert month_status(database) == (("failed", KILLED) if task == "stage_sales" else ("loading", None))
        attempts.go_on()
        assert_all_is_as_if_nothing_had_been_cut_off(database, 2)
    killed = database.run(f"select status from pipeline.loads where error like '{KILLED}%'")
    assert killed == ([("failed",)] if task == "stage_sales" else [])


@pytest.fixture(scope="module")
def own_server() -> Iterator[Database]:
    """A migrated database on a server that may be stopped and that keeps what it has committed."""
    with Cluster.temporary({"synchronous_commit": "on"}) as cluster:
        template = new_database(cluster, "migrated")
        assert template.alembic("upgrade", "head").returncode == 0
        yield template


@pytest.fixture
def own_database(own_server: Database) -> Iterator[Database]:
    """A migrated database on the server that may be stopped."""
    database = new_database(own_server.cluster, "companydata", own_server.name)
    database.run("grant connect, temporary on database companydata to pipeline")
    database.run("grant connect on database companydata to ds_user_role")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        yield database
    drop_database(database)


def test_a_server_that_crashes_leaves_the_old_month_and_the_retry_works_and_outlives_a_crash(
    own_database: Database, files: Files
) -> None:
    write_sales(files, 1)
    load_month(own_database, MONTH)
    for version, point in enumerate(("load staged", "before commit"), 2):
        write_sales(files, version)
        attempts = Attempts(own_database)
        with pytest.raises(psycopg.OperationalError), paused(own_database, point, attempts.go_on):
            own_database.cluster.stop("immediate")
        own_database.cluster.start()
        assert shown(own_database) == seen({MONTH: version - 1})
        assert month_status(own_database) == (("failed", KILLED) if point == "load staged" else ("loading", None))
        attempts.go_on()
        assert_all_is_as_if_nothing_had_been_cut_off(own_database, version)
    own_database.cluster.stop("immediate")
    own_database.cluster.start()
    assert_all_is_as_if_nothing_had_been_cut_off(own_database, version)


def orphaned_files(database: Database) -> list[str]:
    """The files that the command of docs/server.md lists."""
    [command] = re.findall(r"^psql [^`]*pg_filenode_relation[^`]*", (ROOT / "docs/server.md").read_text(), re.M)
    address = "postgresql://admin:admin@localhost:5432/companydata"
    assert address in command
    printed = database.client("bash", "-ec", command.replace(address, f"'{database.url()}'"))
    return re.findall(r"base/\d+/\S+", printed)


def test_the_file_of_a_copy_that_a_crash_cut_off_is_found_and_can_be_removed(own_database: Database) -> None:
    cluster = own_database.cluster
    own_database.run("create table copied (idx int)")
    own_database.run("insert into copied values (1)")
    assert orphaned_files(own_database) == []
    with suppress(psycopg.OperationalError), own_database.connect() as loading, loading.transaction():
        loading.execute("truncate copied")
        with loading.cursor().copy("copy copied from stdin with (freeze true)") as rows:
            rows.write(b"2\n" * 100_000)
            [(file,)] = own_database.run("""
                select max(substring(file from '^[0-9]+')::int)
                from pg_database, pg_ls_dir('base/' || oid) as file
                where datname = current_database() and file ~ '^[0-9]'
            """)
            cluster.stop("immediate")
    cluster.start()
    orphans = orphaned_files(own_database)
    assert [orphan for orphan in orphans if orphan.endswith(f"/{file}")]
    cluster.stop()
    for orphan in orphans:
        (cluster.data / orphan).unlink()
    cluster.start()
    assert orphaned_files(own_database) == []
    assert own_database.run("select idx from copied") == [(1,)]


# Where a load of customers, and the rebuild of the features after it, are cut off.
POINTS_OF_CLIENTS = {
    "labels staged": "delete pipeline.rejected_builds",
    "customer_activity checked": "update public.feature_history",
    "labels published": "insert public.feature_history",
    "delete public.customer_profiles": "delete public.feature_store",
    "insert public.customer_activity": "insert public.feature_store",
    "insert public.labels": "insert pipeline.client_hashes",
    "before commit": "insert pipeline.feature_store_builds",
}


def test_customers_and_features_that_are_cut_off_at_any_point_stay_whole_and_the_retry_works(
    database: Database, files: Files
) -> None:
    def assert_features_are_of(version: int) -> None:
        expected = [(idx, version, version) for idx in clients_of(version)]
        known = "(select * from feature_history where known_to is null) as known"
        for table in ("feature_store", known):
            assert database.run(f"select idx, attr_a, scd_a from {table} order by idx", "ds_user") == expected

    write_customers(files, 1)
    load_customers(database)
    build_feature_store(database)
    with only_listed(database):
        for version, (of_load, of_build) in enumerate(POINTS_OF_CLIENTS.items(), 2):
            print(of_load, of_build)
            write_customers(files, version)
            attempts = Attempts(database, CUSTOMERS)
            drop_at(database, of_load, attempts.go_on)
            assert shown(database) == seen({}, version - 1)
            attempts.go_on()
            assert shown(database) == seen({}, version)
            assert staged_tables(database) == []

            drop_at(database, of_build, lambda: build_feature_store(database))
            assert_features_are_of(version - 1)
            build_feature_store(database)
            assert_features_are_of(version)
            superseded = "select idx, attr_a from feature_history where known_to is not null order by attr_a, idx"
            assert database.run(superseded) == [(idx, old) for old in range(1, version) for idx in clients_of(old)]
            assert database.run("select count(*) from pipeline.feature_store_builds") == [(version,)]
