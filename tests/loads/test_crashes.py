"""The connection, the loading process or the server is lost at a named point: readers see a whole month, a retry works.

What is cut off before its commit leaves the old version; what has committed stays.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import AIRFLOW_HOME, Database, Files, RunDag, drop_database, month_after, new_database
from support import forked, steps, transitions
from support.breakpoints import WAIT_SECONDS, Pause, pausing, wait_for_copy, wait_until_nothing_is_left
from support.faulty_bucket import MisbehavingHandler, misbehaving
from support.steps import (
    CUSTOMERS,
    FEATURES,
    Run,
    build_feature_store,
    csv_text,
    load_customers,
    load_month,
    staged_tables,
)
from support.steps import SALES as SALES_DAG

from company_data import retries, source
from company_data.settings import CONNECTION_OPTIONS
from embedded.postgres import Cluster

pytestmark = pytest.mark.slow

MONTH = "2024-02-01"
PARTITION = "sales_2024_02"
SALES = f"sales/{MONTH}/sales.csv"
ROWS = 500

# Where a load of a month can be cut off, and the status of its newest load of sales then. A load that had not
# begun leaves none, and the ledger shows the load before it.
POINTS = {
    "load begun": "published",
    "load requested": "failed",
    "load staged": "failed",
    "load checked": "staged",
    "load published": "checked",
    "insert public.stores": "checked",
    "delete public.sales": "checked",
    "insert public.sales": "checked",
    "delete public.monthly_sales": "checked",
    "insert public.monthly_sales": "checked",
    "before commit": "checked",
}
STATES = {"published": "loaded", "failed": "failed", "staged": "loading", "checked": "loading"}
KILLED = "The process that loaded the file was killed."


@pytest.fixture(autouse=True)
def dags() -> None:
    """The DAGs, read before threads run them: Airflow reads files of DAGs in the main thread alone."""
    for dag_id in (SALES_DAG, CUSTOMERS, FEATURES):
        steps.dag(dag_id)


@pytest.fixture(autouse=True)
def only_listed_transitions(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test changes the status of a load in a way that 0104_ledger.sql does not list."""
    if "small_disk" in request.fixturenames:
        yield  # its database goes with its disk
        return
    [name] = {"database", "own_database"} & set(request.fixturenames)
    database: Database = request.getfixturevalue(name)
    with database.connect() as admin:
        transitions.record(admin)
    yield
    with database.connect() as admin:
        assert transitions.unlisted(transitions.seen(admin)) == set()


def write_version(files: Files, version: int, rows: int = ROWS) -> None:
    """A month in which every sale is 100 and the version, so that none is unusual, and the store's location has it."""
    files.write("stores.csv", f"idx,location\n1,Porto {version}\n")
    files.write(SALES, csv_text("idx,value,date,store_idx", [(n, 100 + version, MONTH, 1) for n in range(rows)]))


def version_of(database: Database, rows: int = ROWS) -> int:
    """The version that readers see in all tables; fails where they see a part or a mixture."""
    [(count, least, most)] = database.run("select count(*), min(value), max(value) from sales", "ds_user")
    assert (count, least) == (rows, most)
    version = int(least) - 100
    stores = database.run("select idx, location from stores", "ds_user")
    assert stores == [(1, f"Porto {version}")]
    monthly = database.run("select store_idx, location, sale_month::text, value from monthly_sales", "ds_user")
    assert monthly == [(1, f"Porto {version}", MONTH, (100 + version) * rows)]
    return version


def newest_load(database: Database) -> tuple[str, str | None]:
    """Status and error of the newest load of sales."""
    [row] = database.run("""
        select status, error
        from pipeline.loads
        inner join pipeline.files using (file_id)
        where table_name = 'sales'
        order by load_id desc
        limit 1
    """)
    return row[0], row[1]


def month_status(database: Database) -> tuple[str, str | None]:
    """Status and error of the month, as a reader sees them."""
    [row] = database.run("select status, error from month_status", "ds_user")
    return row[0], row[1]


class Attempts:
    """One run of the month, whose tasks are tried again as Airflow does: those that have ended are not."""

    def __init__(self, database: Database, dag_id: str = SALES_DAG) -> None:
        self.run = Run(database, dag_id, MONTH)
        self.ended: list[str] = []

    def go_on(self, until: str | None = None) -> None:
        """Run the tasks that have not ended, all or those before the named one."""
        for task in self.run.tasks:
            if task == until:
                return
            if task not in self.ended:
                self.run.run(task)
                self.ended.append(task)

    def clear(self) -> None:
        """Let all tasks run again, as clearing the run does."""
        self.ended.clear()


def assert_all_is_as_if_nothing_had_been_cut_off(database: Database, version: int, rows: int = ROWS) -> None:
    """The month and the ledger are whole, and nothing is left in staging."""
    assert version_of(database, rows) == version
    assert newest_load(database) == ("published", None)
    assert month_status(database) == ("loaded", None)
    assert database.run("select count(*) from pipeline.loads where status = 'loading'") == [(0,)]
    assert staged_tables(database) == []
    wait_until_nothing_is_left(database)


def terminate(database: Database, pid: int) -> None:
    assert database.run(f"select pg_terminate_backend({pid})") == [(True,)]


@contextmanager
def stalling_bucket(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Files, Callable[[], AbstractContextManager[None]]]]:
    """A bucket, and a context in which the next request of the month's file stalls after half of it."""
    with misbehaving(folder) as (bucket, answers, _):
        monkeypatch.setattr(source, "CHUNK_BYTES", 1024)  # so that the copy begins before the file stalls
        monkeypatch.setenv("SOURCE_BASE_URL", bucket.url)
        monkeypatch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        files = Files(folder, bucket)

        @contextmanager
        def stall_copy() -> Iterator[None]:
            released = threading.Event()
            half = (folder / SALES).stat().st_size // 2

            def answer(handler: MisbehavingHandler) -> None:
                content = handler.content()
                handler.head(Content_Length=len(content))
                handler.wfile.write(content[:half])
                handler.wfile.flush()
                released.wait(WAIT_SECONDS)
                with suppress(OSError):
                    handler.wfile.write(content[half:])

            answers[SALES] = [answer]
            try:
                yield
            finally:
                released.set()

        yield files, stall_copy


def drop_at(database: Database, point: str, work: Callable[[], object]) -> None:
    """Do the work until it comes to the point, where its connection drops."""
    with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
        load = pool.submit(work)
        terminate(database, pause.wait(load))
        with pytest.raises(psycopg.errors.AdminShutdown):
            load.result(timeout=WAIT_SECONDS)
        wait_until_nothing_is_left(database)


def test_a_connection_that_drops_at_any_point_leaves_the_old_month_and_the_retry_works(
    database: Database, files: Files
) -> None:
    write_version(files, 1)
    load_month(database, MONTH)
    for version, (point, expected) in enumerate(POINTS.items(), 2):
        print(point)
        write_version(files, version)
        attempts = Attempts(database)
        drop_at(database, point, attempts.go_on)
        assert version_of(database) == version - 1
        status, error = newest_load(database)
        assert status == expected
        assert month_status(database) == (STATES[status], error)
        if status == "failed":
            assert "terminating connection due to administrator command" in str(error)
        attempts.go_on()
        assert_all_is_as_if_nothing_had_been_cut_off(database, version)


def test_a_run_that_was_cut_off_is_cleared_and_starts_again(database: Database, files: Files) -> None:
    write_version(files, 1)
    load_month(database, MONTH)
    for version, point in enumerate(["load staged", "load checked", "before commit"], 2):
        print(point)
        attempts = Attempts(database)
        drop_at(database, point, attempts.go_on)
        write_version(files, version)
        attempts.clear()
        attempts.go_on()
        assert_all_is_as_if_nothing_had_been_cut_off(database, version)


def test_a_month_that_a_new_run_loads_supersedes_what_was_cut_off(database: Database, files: Files) -> None:
    write_version(files, 1)
    drop_at(database, "before commit", lambda: load_month(database, MONTH))
    assert database.run("select count(*) from sales") == [(0,)]
    assert database.run("select count(*) from monthly_sales") == [(0,)]
    assert database.run("select count(*) from stores") == [(0,)]
    write_version(files, 2)
    load_month(database, MONTH)
    assert_all_is_as_if_nothing_had_been_cut_off(database, 2)
    statuses = database.run("select status from pipeline.loads order by load_id")
    assert statuses == [("superseded",)] * 2 + [("published",)] * 2


def test_a_first_load_that_is_cut_off_while_it_begins_leaves_no_trace(database: Database, files: Files) -> None:
    write_version(files, 1)
    attempts = Attempts(database)
    drop_at(database, "load begun", attempts.go_on)
    assert database.run("select count(*) from pipeline.loads") == [(0,)]
    assert database.run(f"select to_regclass('partitions.{PARTITION}')") == [(None,)]
    assert staged_tables(database) == []
    attempts.go_on()
    assert_all_is_as_if_nothing_had_been_cut_off(database, 1)


def test_a_connection_that_drops_during_the_copy_leaves_the_old_month(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stalling_bucket(tmp_path, monkeypatch) as (files, stall_copy):
        write_version(files, 1)
        load_month(database, MONTH)
        write_version(files, 2)
        attempts = Attempts(database)
        with ThreadPoolExecutor(1) as pool, stall_copy():
            load = pool.submit(attempts.go_on)
            terminate(database, wait_for_copy(database, load))
            wait_until_nothing_is_left(database)
        with pytest.raises(psycopg.OperationalError):
            load.result(timeout=WAIT_SECONDS)
        assert version_of(database) == 1
        status, error = newest_load(database)
        assert (status, month_status(database)) == ("failed", ("failed", error))
        attempts.go_on()
        assert_all_is_as_if_nothing_had_been_cut_off(database, 2)


def run_task(environment: dict[str, str], database: Database, name: str, loads: dict[str, int], task: str) -> None:
    """In a process of its own, run one task of a run."""
    AIRFLOW_HOME.cleanup()  # that of this process, which is killed
    os.environ.update(environment)
    # The server notices sooner than by default that a client is gone.
    options = f"{CONNECTION_OPTIONS} -c client_connection_check_interval=100ms"
    pytest.MonkeyPatch().setattr(steps, "CONNECTION_OPTIONS", options)
    run = Run(database, SALES_DAG, MONTH)
    run.name, run.loads = name, loads
    run.run(task)


@pytest.mark.parametrize(
    ("point", "task"),
    [
        ("load requested", "stage_sales"),
        ("load staged", "stage_sales"),
        ("delete public.sales", "publish_month"),
        ("insert public.sales", "publish_month"),
        ("insert public.monthly_sales", "publish_month"),
        ("before commit", "publish_month"),
    ],
)
def test_a_loading_process_that_is_killed_leaves_the_old_month_and_the_retry_works(
    database: Database, files: Files, point: str, task: str
) -> None:
    write_version(files, 1)
    load_month(database, MONTH)
    write_version(files, 2)
    attempts = Attempts(database)
    attempts.go_on(until=task)
    with pausing(database, point) as pause:
        process = forked.SERVER.Process(
            target=run_task, args=(dict(os.environ), database, attempts.run.name, attempts.run.loads, task)
        )
        process.start()
        pause.wait()
        assert month_status(database) == ("loading", None)
        process.kill()
        process.join(WAIT_SECONDS)
        assert process.exitcode == -signal.SIGKILL
        wait_until_nothing_is_left(database)
    assert version_of(database) == 1
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


def crash_and_start(cluster: Cluster) -> None:
    cluster.stop("immediate")
    cluster.start()


@pytest.mark.parametrize(
    "point", ["load staged", "insert public.sales", "insert public.monthly_sales", "before commit"]
)
def test_a_server_that_crashes_leaves_the_old_month_and_the_retry_works(
    own_database: Database, files: Files, point: str
) -> None:
    write_version(files, 1)
    load_month(own_database, MONTH)
    write_version(files, 2)
    attempts = Attempts(own_database)
    with pausing(own_database, point) as pause:
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(attempts.go_on)
            pause.wait(load)
            own_database.cluster.stop("immediate")
            with pytest.raises(psycopg.OperationalError):
                load.result(timeout=WAIT_SECONDS)
        own_database.cluster.start()
    assert version_of(own_database) == 1
    assert month_status(own_database) == (("failed", KILLED) if point == "load staged" else ("loading", None))
    attempts.go_on()
    assert_all_is_as_if_nothing_had_been_cut_off(own_database, 2)


def test_a_month_that_has_committed_outlives_a_crash_of_the_server(own_database: Database, files: Files) -> None:
    for version in (1, 2):
        write_version(files, version)
        load_month(own_database, MONTH)
        crash_and_start(own_database.cluster)
        assert_all_is_as_if_nothing_had_been_cut_off(own_database, version)


def test_airflow_brings_a_month_to_its_end_through_dropped_connections(
    database: Database, files: Files, run_dag: RunDag, no_pauses: None
) -> None:
    write_version(files, 1)
    points = [
        "sales requested",
        "sales staged",
        "stores staged",
        "sales checked",
        "delete public.sales",
        "insert public.sales",
        "before commit",
    ]

    def drop_each(pauses: list[Pause]) -> None:
        try:
            for pause in pauses:
                terminate(database, pause.wait())
                pause.release()
        finally:
            for pause in pauses:
                pause.release()

    load_month(database, MONTH)
    write_version(files, 2)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        dropped = pool.submit(drop_each, [stack.enter_context(pausing(database, point)) for point in points])
        assert run_dag(SALES_DAG, month_after("2024-02"), retries=9) == "success"
        dropped.result(timeout=WAIT_SECONDS)
    assert_all_is_as_if_nothing_had_been_cut_off(database, 2)


def test_airflow_brings_a_month_to_its_end_through_a_crash_of_the_server(
    own_database: Database, files: Files, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All retries together take longer than a start of the server may.
    pauses = (timedelta(seconds=1), timedelta(seconds=15))
    monkeypatch.setattr(retries, "PAUSES", dict.fromkeys(retries.PAUSES, pauses))
    write_version(files, 1)
    with pausing(own_database, "insert public.monthly_sales") as pause, ThreadPoolExecutor(1) as pool:

        def crash() -> None:
            pause.wait()
            crash_and_start(own_database.cluster)

        crashed = pool.submit(crash)
        assert run_dag(SALES_DAG, month_after("2024-02"), retries=9) == "success"
        crashed.result(timeout=WAIT_SECONDS)
    assert_all_is_as_if_nothing_had_been_cut_off(own_database, 1)


@pytest.fixture
def small_disk(own_database: Database) -> Iterator[Path]:
    """A file system of 16 MB, on which the staged tables and the partitions of own_database are made."""
    cluster = own_database.cluster
    disk = cluster.home / "small_disk"
    disk.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=True)
    try:
        space = disk / "tablespace"
        space.mkdir()
        shutil.chown(space, cluster.data.owner(), cluster.data.group())
        own_database.run(f"create tablespace small location '{space}'")
        own_database.run("grant create on tablespace small to pipeline_owner")
        own_database.run("alter database companydata set default_tablespace = small")
        yield disk
    finally:
        drop_database(own_database)
        Database(cluster, "postgres").run("drop tablespace if exists small")
        subprocess.run(["/bin/umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small file system that this test fills")
def test_a_full_disk_leaves_the_old_month_and_the_retry_works_once_there_is_room(
    own_database: Database, small_disk: Path, files: Files
) -> None:
    rows = 30_000  # some 1.4 MB
    filler = small_disk / "filler"

    def fill() -> None:
        filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 500_000))

    write_version(files, 1, rows)
    load_month(own_database, MONTH)
    write_version(files, 2, rows)
    attempts = Attempts(own_database)
    fill()
    with pytest.raises(psycopg.errors.DiskFull):
        attempts.go_on()
    assert version_of(own_database, rows) == 1
    status, error = month_status(own_database)
    assert status == "failed"
    assert "No space left on device" in str(error)
    filler.unlink()

    # Again, between the deletion of the old rows and the insertion of the new ones.
    with pausing(own_database, "delete public.sales") as pause, ThreadPoolExecutor(1) as pool:
        load = pool.submit(attempts.go_on)
        pause.wait(load)
        fill()
        pause.release()
        with pytest.raises(psycopg.errors.DiskFull):
            load.result(timeout=WAIT_SECONDS)
    assert version_of(own_database, rows) == 1
    assert newest_load(own_database) == ("checked", None)
    filler.unlink()
    attempts.go_on()
    assert_all_is_as_if_nothing_had_been_cut_off(own_database, 2, rows)


def write_customers(files: Files, version: int) -> None:
    """Three clients, of whom one comes and one goes with every version."""
    ids = [1, 2, 10 + version]
    files.write("customer_profiles.csv", csv_text("idx,attr_a,attr_b,attr_c", [(n, version, "A", "x") for n in ids]))
    files.write(
        "customer_activity.csv",
        # The first client has no current row.
        csv_text(
            "idx,valid_from,valid_to,scd_a,scd_b",
            [(n, "2020-01-01", "2020-02-01" if n == 1 else "", version, 1) for n in ids],
        ),
    )
    files.write("labels.csv", csv_text("idx,label", [(n, 0) for n in ids]))


@pytest.mark.parametrize(
    "point",
    [
        "delete pipeline.rejected_builds",
        "update public.feature_history",
        "insert public.feature_history",
        "delete public.feature_store",
        "insert public.feature_store",
        "insert pipeline.client_hashes",
        "insert pipeline.feature_store_builds",
    ],
)
def test_features_whose_rebuild_is_cut_off_stay_whole(database: Database, files: Files, point: str) -> None:
    def seen() -> list[tuple[object, ...]]:
        shown = database.run("select idx, attr_a, scd_a from feature_store order by idx", "ds_user")
        known = "select idx, attr_a, scd_a from feature_history where known_to is null order by idx"
        assert database.run(known, "ds_user") == shown
        return shown

    write_customers(files, 1)
    load_customers(database)
    build_feature_store(database)
    write_customers(files, 2)
    load_customers(database)
    drop_at(database, point, lambda: build_feature_store(database))
    assert seen() == [(idx, 1, 1.0) for idx in (1, 2, 11)]
    build_feature_store(database)
    assert seen() == [(idx, 2, 2.0) for idx in (1, 2, 12)]
    assert database.run("select idx, attr_a from feature_history where known_to is not null order by idx") == [
        (idx, 1) for idx in (1, 2, 11)
    ]
    assert database.run("select count(*) from pipeline.feature_store_builds") == [(2,)]


def test_a_load_of_customers_that_is_cut_off_at_any_point_leaves_the_old_tables_and_the_retry_works(
    database: Database, files: Files
) -> None:
    points = [
        "labels staged",
        "customer_activity checked",
        "customer_profiles published",
        "labels published",
        "delete public.customer_profiles",
        "insert public.customer_profiles",
        "delete public.customer_activity",
        "insert public.customer_activity",
        "delete public.labels",
        "insert public.labels",
        "before commit",
    ]

    def seen() -> list[list[tuple[object, ...]]]:
        queries = (
            "select idx, attr_a from customer_profiles order by idx",
            "select idx, scd_a from customer_activity order by idx",
            "select idx from labels order by idx",
        )
        return [database.run(query, "ds_user") for query in queries]

    def expected(version: int) -> list[list[tuple[object, ...]]]:
        clients = (1, 2, 10 + version)
        return [
            [(idx, version) for idx in clients],
            [(idx, float(version)) for idx in clients],
            [(idx,) for idx in clients],
        ]

    write_customers(files, 1)
    load_customers(database)
    for version, point in enumerate(points, 2):
        print(point)
        write_customers(files, version)
        attempts = Attempts(database, CUSTOMERS)
        drop_at(database, point, attempts.go_on)
        assert seen() == expected(version - 1)
        attempts.go_on()
        assert seen() == expected(version)
        assert staged_tables(database) == []
