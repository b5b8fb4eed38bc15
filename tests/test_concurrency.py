"""Runs side by side: one month twice, several months, rebuilds, migrations, and readers all the while."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import steps
from conftest import ROOT, Database, Files, head
from steps import build_feature_store, connect, csv_text, load_customers, load_month, run_files, stage_file

ROWS = 2_000
MONTHS = ["2023-12-01", "2024-01-01", "2024-02-01"]
HEADER = "idx,value,date,store_idx"


def write_months(files: Files, rows: int = ROWS) -> None:
    files.write("stores.csv", "idx,location\n1,Porto\n")
    for month in [*MONTHS, "2024-03-01"]:
        files.write(f"sales/{month}/sales.csv", csv_text(HEADER, [(n, 1, month, 1) for n in range(rows)]))


def write_customers(files: Files, attribute: int, clients: int = 500) -> None:
    ids = range(1, clients + 1)
    files.write("customer_profiles.csv", csv_text("idx,attr_a,attr_b,attr_c", [(n, attribute, "A", "x") for n in ids]))
    files.write(
        "customer_activity.csv",
        csv_text("idx,valid_from,valid_to,scd_a,scd_b", [(n, "2020-01-01", "", attribute, 1) for n in ids]),
    )
    files.write("labels.csv", csv_text("idx,label", [(n, 0) for n in ids]))


@contextmanager
def reading(database: Database, query: str) -> Iterator[set[object]]:
    """Run a query as ds_user over and over while the block runs, gathering the different answers."""
    answers: set[object] = set()
    finished = threading.Event()

    def read() -> None:
        with database.connect("ds_user") as connection:
            while not finished.is_set():
                answers.add(connection.execute(query).fetchone())

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            yield answers
        finally:
            finished.set()
            reader.result(timeout=60)


def counts(database: Database) -> list[tuple[object, ...]]:
    return database.run("select date::text, count(*) from sales group by date order by date")


def test_one_month_many_times_at_once_and_several_months_beside_it_end_right(database: Database, files: Files) -> None:
    write_months(files)
    for month in MONTHS:
        load_month(database, month)
    superseded = []
    seen = """
        select (select count(*) from sales where date = '2024-02-01'), (select count(*) from stores),
               (select sum(value) from monthly_sales where sale_month = '2024-02-01')
    """
    with reading(database, seen) as answers, ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load_month, database, month) for month in [*MONTHS, "2024-02-01"] * 5]
        for done in loads:
            try:
                done.result(timeout=60)
            except psycopg.errors.CheckViolation as error:
                superseded.append(str(error))
    assert answers == {(ROWS, 1, ROWS)}
    assert counts(database) == [(month, ROWS) for month in MONTHS]
    assert database.run("select sale_month::text, value from monthly_sales order by 1") == [
        (month, ROWS) for month in MONTHS
    ]
    # Of runs of one month, those whose file was staged again by another stop and say so; at least one ends.
    assert all("another run has staged this file since" in message for message in superseded)
    assert len(superseded) < len(loads)
    assert database.run("select count(*) from staging.sales") == [(0,)]


def test_of_two_runs_of_one_month_the_one_that_staged_last_is_published(database: Database, files: Files) -> None:
    write_months(files)
    load_month(database, "2024-02-01")
    older = stage_file(database, "sales/2024-02-01/sales.csv", "sales", "2024-02-01")
    write_months(files, rows=3)
    load_month(database, "2024-02-01")
    with pytest.raises(psycopg.errors.CheckViolation, match="another run has staged this file since"):
        run_on_older(database, older)
    assert counts(database) == [("2024-02-01", 3)]


def run_on_older(database: Database, load: int) -> None:
    with connect(database) as connection:
        run_files(connection, "sales/replace_month_of_sales.sql", sale_month="2024-02-01", sales_load=load)


def test_a_month_waits_for_the_same_month_and_not_for_another(database: Database, files: Files) -> None:
    write_months(files)
    with database.connect() as slow, ThreadPoolExecutor(1) as pool:
        load_month(database, "2024-01-01")
        with slow.transaction():
            slow.execute("select pipeline.lock_month('2024-02-01')")
            same = pool.submit(load_month, database, "2024-02-01")
            load_month(database, "2024-01-01")
            load_month(database, "2024-03-01")
            time.sleep(0.5)
            assert not same.done()
        same.result(timeout=30)
    assert counts(database) == [("2024-01-01", ROWS), ("2024-02-01", ROWS), ("2024-03-01", ROWS)]


def test_a_month_is_loaded_anew_while_the_file_of_another_is_still_coming(database: Database, files: Files) -> None:
    write_months(files)
    load_month(database, "2024-01-01")
    with database.connect("pipeline") as slow:
        slow.execute("select pipeline.prepare_month('2024-02-01')")
        with slow.transaction():
            slow.execute("select pipeline.begin_staging('sales', '2024-02-01')")
            load_month(database, "2024-01-01")
    assert counts(database) == [("2024-01-01", ROWS)]


def test_a_waiting_month_gives_up_after_lock_timeout_and_the_retry_works(database: Database, files: Files) -> None:
    write_months(files)
    load = {"sale_month": "2024-02-01"}
    load_month(database, "2024-02-01")
    with database.connect() as holder, holder.transaction(), connect(database) as waiting:
        holder.execute("select pipeline.lock_month('2024-02-01')")
        waiting.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run_files(waiting, "sales/replace_month_of_monthly_sales.sql", **load)
    with connect(database) as again:
        run_files(again, "sales/replace_month_of_monthly_sales.sql", **load)
    assert database.run("select sum(value) from monthly_sales") == [(ROWS,)]


def test_loads_finish_while_a_reader_holds_a_long_transaction_on_every_table(database: Database, files: Files) -> None:
    write_months(files)
    write_customers(files, attribute=1)
    load_month(database, "2024-02-01")
    load_customers(database)
    build_feature_store(database)
    with database.connect("ds_user") as reader, reader.transaction():
        for table in ("sales", "monthly_sales", "stores", "customer_profiles", "labels", "feature_store"):
            reader.execute(f"select count(*) from {table}")
        write_customers(files, attribute=2)
        load_month(database, "2024-03-01")
        load_customers(database)
        build_feature_store(database)
    assert counts(database) == [("2024-02-01", ROWS), ("2024-03-01", ROWS)]
    assert database.run("select distinct attr_a from feature_store") == [(2,)]


def test_a_month_that_is_loaded_anew_waits_briefly_for_a_reader_and_its_retry_works(
    database: Database, files: Files
) -> None:
    write_months(files)
    load_month(database, "2024-02-01")
    write_months(files, rows=3)
    with database.connect("ds_user") as reader, reader.transaction():
        reader.execute("select count(*) from sales")
        start = time.monotonic()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            load_month(database, "2024-02-01")
        assert 3 <= time.monotonic() - start < 10
        assert reader.execute("select count(*) from sales").fetchone() == (ROWS,)
    assert counts(database) == [("2024-02-01", ROWS)]
    load_month(database, "2024-02-01")
    assert counts(database) == [("2024-02-01", 3)]


def test_a_month_that_is_loaded_anew_makes_readers_wait_for_milliseconds(database: Database, files: Files) -> None:
    write_months(files, rows=100_000)
    load_month(database, "2024-02-01")
    longest = [0.0]
    finished = threading.Event()

    def read() -> None:
        with database.connect("ds_user") as connection:
            while not finished.is_set():
                start = time.monotonic()
                connection.execute("select idx from sales where date >= '2024-03-01' limit 1")
                longest[0] = max(longest[0], time.monotonic() - start)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        start = time.monotonic()
        for _ in range(5):
            load_month(database, "2024-02-01")
        seconds = (time.monotonic() - start) / 5
        finished.set()
        reader.result(timeout=60)
    # Two cores are shared with the load, so a reader may wait for the processor, but never for the copying.
    assert longest[0] < max(seconds / 2, 0.1)


@pytest.mark.parametrize("first_load", [True, False])
def test_a_transaction_that_began_before_a_load_and_reads_after_it_sees_the_new_month_whole(
    database: Database, files: Files, first_load: bool
) -> None:
    write_months(files)
    if not first_load:
        load_month(database, "2024-02-01")
    write_months(files, rows=3)
    with database.connect("ds_user") as reader, reader.transaction():
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from stores")  # takes the snapshot
        load_month(database, "2024-02-01")
        assert reader.execute("select count(*) from sales").fetchone() == (3,)


def test_who_looks_at_staging_for_long_makes_a_load_give_up_and_its_retry_works(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_months(files)
    load_month(database, "2024-02-01")
    with database.connect() as looker, looker.transaction():
        looker.execute("select count(*) from staging.stores_2024_02")
        monkeypatch.setattr(steps, "CONNECTION_OPTIONS", "-c lock_timeout=100ms")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            load_month(database, "2024-02-01")
    load_month(database, "2024-02-01")
    assert counts(database) == [("2024-02-01", ROWS)]


def test_customer_loads_and_rebuilds_of_the_feature_store_at_once_never_show_a_mixture(
    database: Database, files: Files
) -> None:
    write_customers(files, attribute=1)
    load_customers(database)
    build_feature_store(database)
    # A profile's attr_a and an activity's scd_a come from the same version of the files, or the mixture shows.
    seen = "select count(*), count(*) filter (where attr_a = scd_a), count(distinct attr_a) from feature_store"
    with reading(database, seen) as answers, ThreadPoolExecutor(3) as pool:
        for attribute in range(2, 8):
            write_customers(files, attribute)
            rebuilds = [pool.submit(build_feature_store, database) for _ in range(2)]
            pool.submit(load_customers, database).result(timeout=60)
            for done in rebuilds:
                done.result(timeout=60)
    assert answers == {(500, 500, 1)}
    build_feature_store(database)
    assert database.run("select distinct attr_a, scd_a from feature_store") == [(7, 7.0)]


def test_a_migration_during_loads_and_the_loads_both_end_right(
    database: Database, files: Files, tmp_path: Path
) -> None:
    write_months(files)
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    (tmp_path / "alembic/versions/9999_a_column_of_sales.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{head()}'\n"
        "def upgrade():\n    op.execute('alter table public.sales add column note text')\n"
        "def downgrade():\n    op.execute('alter table public.sales drop column note')\n"
    )
    environment = {**os.environ, "DATABASE_URL": database.url(driver="postgresql+psycopg2")}

    def migrate(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "alembic", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    migrated = threading.Event()
    loads = dict.fromkeys(MONTHS, 0)

    def load_until_migrated(month: str) -> None:
        while not migrated.is_set():
            try:
                load_month(database, month)
                loads[month] += 1
            except psycopg.errors.CheckViolation as error:
                if "public.sales has got other columns since the month was staged" not in str(error):
                    raise

    def wait_for_a_load_of_each_month(running: list[Future[None]]) -> None:
        before = dict(loads)
        deadline = time.monotonic() + 60
        while any(loads[month] == before[month] for month in MONTHS):
            assert time.monotonic() < deadline, f"the loads stand still: {before}, {loads}"
            for load in running:
                assert not load.done(), load.exception()
            time.sleep(0.01)

    with ThreadPoolExecutor(len(MONTHS)) as pool:
        running = [pool.submit(load_until_migrated, month) for month in MONTHS]
        try:
            # Each migration comes between two loads of every month, and nobody stops for it.
            for arguments in (["upgrade", "head"], ["downgrade", "-1"], ["upgrade", "head"]):
                wait_for_a_load_of_each_month(running)
                done = migrate(*arguments)
                assert done.returncode == 0, done.stderr
            wait_for_a_load_of_each_month(running)
        finally:
            migrated.set()
        for load in running:
            load.result(timeout=60)
    assert all(count > 3 for count in loads.values()), loads
    assert counts(database) == [(month, ROWS) for month in MONTHS]
    assert database.run("select count(note) from sales") == [(0,)]
