"""The connection, the loading process or the server is lost at a named point: readers see a whole month, a retry works.

What is cut off before its commit leaves the old version; what has committed stays.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import steps
from conftest import Database, Files, RunDag, month_after, new_database
from misbehaviour import misbehaving, stall
from pauses import fallback_point, pausing, wait_for_copy, wait_until_nothing_is_left
from steps import SALES as SALES_DAG
from steps import Run, build_feature_store, csv_text, load_customers, load_month

from local.postgres import Cluster

MONTH = "2024-02-01"
PARTITION = "sales_2024_02"
SALES = f"sales/{MONTH}/sales.csv"
ROWS = 500

# Where a load of a month can be cut off, and the outcome of its newest load of sales then. A load that had not
# begun leaves none, and the ledger shows the load before it.
POINTS = {
    "load begun": "published",
    "file requested": "failed",
    "load staged": "failed",
    "load checked": "staged",
    "load published": "checked",
    "delete public.stores": "checked",
    "insert public.stores": "checked",
    "delete public.monthly_sales": "checked",
    "insert public.monthly_sales": "checked",
    "old partition dropped": "checked",
    "partition attached": "checked",
    "before commit": "checked",
}
STATES = {"published": "loaded", "failed": "failed", "staged": "loading", "checked": "loading"}
KILLED = "The process that loaded the file was killed."


def write_version(files: Files, version: int, rows: int = ROWS) -> None:
    """A month in which every sale has the version as its value, and the store has it in its location."""
    files.write("stores.csv", f"idx,location\n1,Porto {version}\n")
    files.write(SALES, csv_text("idx,value,date,store_idx", [(n, version, MONTH, 1) for n in range(rows)]))


def version_of(database: Database, rows: int = ROWS) -> int:
    """The version that readers see in all tables; fails where they see a part or a mixture."""
    [(count, least, most)] = database.run("select count(*), min(value), max(value) from sales", "ds_user")
    assert (count, least) == (rows, most)
    version = int(least)
    stores = database.run("select idx, location from stores", "ds_user")
    assert stores == [(1, f"Porto {version}")]
    monthly = database.run("select store_idx, location, sale_month::text, value from monthly_sales", "ds_user")
    assert monthly == [(1, f"Porto {version}", MONTH, version * rows)]
    return version


def newest_load(database: Database) -> tuple[str, str | None]:
    """Outcome and problem of the newest load of sales."""
    [row] = database.run("""
        select outcome, problem from pipeline.loads where table_name = 'sales' order by load_id desc limit 1
    """)
    return row[0], row[1]


def status(database: Database) -> tuple[str, str | None]:
    """State and problem of the month, as a reader sees them."""
    [row] = database.run("select state, problem from month_status", "ds_user")
    return row[0], row[1]


class Attempts:
    """One run of the month, whose tasks are tried again as Airflow does: those that have ended are not."""

    def __init__(self, database: Database) -> None:
        self.run = Run(database, SALES_DAG, MONTH)
        self.ended: list[str] = []

    def go_on(self) -> None:
        """Run the tasks that have not ended."""
        for task in self.run.tasks:
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
    assert status(database) == ("loaded", None)
    assert database.run("select count(*) from pipeline.loads where outcome = 'loading'") == [(0,)]
    assert staged_tables(database) == []
    wait_until_nothing_is_left(database)


def staged_tables(database: Database) -> list[str]:
    """Tables that loads have left in schema staging."""
    rows = database.run("""
        select relname from pg_class
        where relnamespace = 'staging'::regnamespace and relkind = 'r' and relname ~ '_[0-9]+$'
    """)
    return [name for (name,) in rows]


def terminate(database: Database, pid: int) -> None:
    assert database.run(f"select pg_terminate_backend({pid})") == [(True,)]


@pytest.mark.parametrize("point", POINTS)
def test_a_connection_that_drops_leaves_the_old_month_and_the_retry_works(
    database: Database, files: Files, point: str
) -> None:
    write_version(files, 1)
    load_month(database, MONTH)
    write_version(files, 2)
    attempts = Attempts(database)
    with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
        load = pool.submit(attempts.go_on)
        terminate(database, pause.wait(load))
        with pytest.raises(psycopg.errors.AdminShutdown):
            load.result(timeout=60)
        wait_until_nothing_is_left(database)
    assert version_of(database) == 1
    outcome, problem = newest_load(database)
    assert outcome == POINTS[point]
    assert status(database) == (STATES[outcome], problem)
    if outcome == "failed":
        assert "terminating connection due to administrator command" in str(problem)
    attempts.go_on()
    assert_all_is_as_if_nothing_had_been_cut_off(database, 2)


@pytest.mark.parametrize("point", ["load staged", "load checked", "before commit"])
def test_a_run_that_was_cut_off_is_cleared_and_starts_again(database: Database, files: Files, point: str) -> None:
    write_version(files, 1)
    load_month(database, MONTH)
    attempts = Attempts(database)
    with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
        load = pool.submit(attempts.go_on)
        terminate(database, pause.wait(load))
        with pytest.raises(psycopg.errors.AdminShutdown):
            load.result(timeout=60)
        wait_until_nothing_is_left(database)
    write_version(files, 2)
    attempts.clear()
    attempts.go_on()
    assert_all_is_as_if_nothing_had_been_cut_off(database, 2)
