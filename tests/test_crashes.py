"""The server, the connection or the loading process dies at any moment: the old month stays, the retry is right."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import Database, Files, RunDag, month_after, new_database
from steps import build_feature_store, csv_text, load_customers, load_month

from local.postgres import Cluster

MONTH = "2024-02-01"
SALES = f"sales/{MONTH}/sales.csv"
ROWS = 30_000
MOMENTS = 12
SEED = 20240202


def write_version(files: Files, version: int) -> None:
    """A month in which every sale has the version as its value."""
    files.write("stores.csv", "idx,location\n1,Porto\n")
    files.write(SALES, csv_text("idx,value,date,store_idx", [(n, version, MONTH, 1) for n in range(ROWS)]))


def version_of(database: Database) -> tuple[object, object]:
    """The versions that sales and monthly_sales show, each of which must be whole."""
    [(count, least, most)] = database.run("select count(*), min(value), max(value) from sales", "ds_user")
    assert (count, least) == (ROWS, most)
    [(total,)] = database.run("select sum(value) from monthly_sales", "ds_user")
    assert total % ROWS == 0
    return int(least), int(total) // ROWS


def wait_until_nothing_is_left(database: Database) -> None:
    """No session, and so no lock and no transaction, of a load that died stays for more than seconds."""
    deadline = time.monotonic() + 20
    while left := database.run("select pid, state, query from pg_stat_activity where usename = 'pipeline'"):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert database.run("select * from pg_locks where locktype = 'advisory'") == []


@contextmanager
def at_a_random_moment(chance: random.Random, within: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something from another thread while the block runs."""
    timer = threading.Timer(chance.random() * within, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def seconds_of_a_load(database: Database) -> float:
    start = time.monotonic()
    load_month(database, MONTH)
    return time.monotonic() - start


def end_sessions(database: Database) -> int:
    """End all sessions of loads; returns how many there were."""
    return len(database.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pipeline'"))


def test_a_connection_that_drops_at_any_moment_leaves_a_whole_month(database: Database, files: Files) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    write_version(files, 1)
    seconds = seconds_of_a_load(database)
    dropped = 0
    for version in range(2, 2 + MOMENTS):
        write_version(files, version)
        with at_a_random_moment(chance, seconds, lambda: end_sessions(database)):
            try:
                load_month(database, MONTH)
            except psycopg.OperationalError:
                dropped += 1
        wait_until_nothing_is_left(database)
        sales, aggregate = version_of(database)
        assert {sales, aggregate} <= {version - 1, version}
        load_month(database, MONTH)
        assert version_of(database) == (version, version)
        assert database.run("select count(*) from staging.sales") == [(0,)]
    assert dropped > MOMENTS / 3


def test_a_loading_process_that_is_killed_at_any_moment_leaves_a_whole_month(database: Database, files: Files) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    fork = multiprocessing.get_context("fork")
    write_version(files, 1)
    seconds = seconds_of_a_load(database)
    killed = 0
    for version in range(2, 2 + MOMENTS):
        write_version(files, version)
        process = fork.Process(target=load_month, args=(database, MONTH))
        process.start()
        process.join(chance.random() * seconds)
        if process.pid and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        killed += process.exitcode == -signal.SIGKILL
        wait_until_nothing_is_left(database)
        sales, aggregate = version_of(database)
        assert {sales, aggregate} <= {version - 1, version}
        load_month(database, MONTH)
        assert version_of(database) == (version, version)
    assert killed > MOMENTS / 3


@pytest.fixture
def own_cluster() -> Iterator[Database]:
    """A migrated database on a server of the test's own, which may be stopped, and keeps what it has committed."""
    with Cluster.temporary({"synchronous_commit": "on"}) as cluster, pytest.MonkeyPatch.context() as patch:
        database = new_database(cluster, "companydata")
        assert database.alembic("upgrade", "head").returncode == 0
        patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        yield database


def crash_and_start(cluster: Cluster) -> None:
    cluster.stop("immediate")
    cluster.start()


def test_a_server_that_crashes_at_any_moment_leaves_a_whole_month(own_cluster: Database, files: Files) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    write_version(files, 1)
    seconds = seconds_of_a_load(own_cluster)
    crashed = 0
    for version in range(2, 7):
        write_version(files, version)
        with at_a_random_moment(chance, seconds, lambda: crash_and_start(own_cluster.cluster)):
            try:
                load_month(own_cluster, MONTH)
            except psycopg.OperationalError:
                crashed += 1
        sales, aggregate = version_of(own_cluster)
        assert {sales, aggregate} <= {version - 1, version}
        load_month(own_cluster, MONTH)
        assert version_of(own_cluster) == (version, version)
    assert crashed > 1


def test_airflow_brings_a_month_to_its_end_through_dropped_connections(
    database: Database, files: Files, run_dag: RunDag, no_pauses: None
) -> None:
    write_version(files, 1)
    finished = threading.Event()
    dropped = [0]

    def drop_connections() -> None:
        while not finished.wait(0.1) and dropped[0] < 6:
            dropped[0] += end_sessions(database)

    saboteur = threading.Thread(target=drop_connections)
    saboteur.start()
    assert run_dag("sales_load_and_aggregation", month_after("2024-02"), retries=9) == "success"
    finished.set()
    saboteur.join()
    assert dropped[0] > 0
    assert version_of(database) == (1, 1)
    assert database.run("select count(*) from staging.sales") == [(0,)]


def test_airflow_brings_a_month_to_its_end_through_a_crash_of_the_server(
    own_cluster: Database, files: Files, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    from company_data import retries

    monkeypatch.setattr(
        retries, "PAUSES", dict.fromkeys(retries.PAUSES, (timedelta(seconds=0.5), timedelta(seconds=2)))
    )
    chance = random.Random(SEED)  # noqa: S311 - no secret
    write_version(files, 1)
    crashed = threading.Event()

    def crash() -> None:
        crash_and_start(own_cluster.cluster)
        crashed.set()

    with at_a_random_moment(chance, 1, crash):
        assert run_dag("sales_load_and_aggregation", month_after("2024-02"), retries=9) == "success"
        assert crashed.is_set()
    assert version_of(own_cluster) == (1, 1)


@pytest.fixture
def small_disk(own_cluster: Database) -> Iterator[Path]:
    """A file system of 16 MB, on which the partitions of own_cluster are made."""
    disk = own_cluster.cluster.home / "small_disk"
    disk.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=True)
    try:
        space = disk / "tablespace"
        space.mkdir()
        shutil.chown(space, own_cluster.cluster.data.owner(), own_cluster.cluster.data.group())
        own_cluster.run(f"create tablespace small location '{space}'")
        own_cluster.run("alter database companydata set default_tablespace = small")
        yield disk
    finally:
        own_cluster.cluster.stop()
        subprocess.run(["/bin/umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small file system that this test fills")
def test_a_full_disk_leaves_a_whole_month_and_the_retry_works_once_there_is_room(
    own_cluster: Database, small_disk: Path, files: Files
) -> None:
    write_version(files, 1)
    load_month(own_cluster, MONTH)
    full = 0
    # A version takes some 1.4 MB, and for a moment the one before it as much.
    for version, kilobytes in enumerate(range(500, 4_000, 500), start=2):
        write_version(files, version)
        own_cluster.run("vacuum full sales")
        free = shutil.disk_usage(small_disk).free
        (small_disk / "filler").write_bytes(b"x" * max(free - kilobytes * 1024, 0))
        try:
            load_month(own_cluster, MONTH)
        except psycopg.errors.DiskFull:
            full += 1
        sales, aggregate = version_of(own_cluster)
        assert {sales, aggregate} <= {version - 1, version}
        (small_disk / "filler").unlink()
        load_month(own_cluster, MONTH)
        assert version_of(own_cluster) == (version, version)
    assert 0 < full < 7


def test_a_feature_store_whose_rebuild_is_cut_off_stays_whole(database: Database, files: Files) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret

    def write_customers(version: int) -> None:
        ids = range(20_000)
        files.write(
            "customer_profiles.csv", csv_text("idx,attr_a,attr_b,attr_c", [(n, version, "A", "x") for n in ids])
        )
        files.write(
            "customer_activity.csv",
            csv_text("idx,valid_from,valid_to,scd_a,scd_b", [(n, "2020-01-01", "", version, 1) for n in ids]),
        )
        files.write("labels.csv", csv_text("idx,label", [(n, 0) for n in ids]))

    def seen(table: str) -> list[tuple[object, ...]]:
        return database.run(f"select count(*), min(attr_a), max(attr_a) from {table}", "ds_user")

    write_customers(1)
    start = time.monotonic()
    load_customers(database)
    build_feature_store(database)
    seconds = time.monotonic() - start
    dropped, rebuilding = [0, 0], False
    for version in range(2, 14):
        write_customers(version)
        with at_a_random_moment(chance, seconds, lambda: end_sessions(database)):
            try:
                load_customers(database)
                rebuilding = True
                build_feature_store(database)
            except psycopg.OperationalError:
                dropped[rebuilding] += 1
        rebuilding = False
        for table in ("customer_profiles", "feature_store"):
            assert seen(table) in [[(20_000, v, v)] for v in (version - 1, version)]
        wait_until_nothing_is_left(database)
        load_customers(database)
        build_feature_store(database)
        assert seen("feature_store") == [(20_000, version, version)]
    assert min(dropped) > 0  # during loads and during rebuilds
