"""Runs side by side: one month twice, several months, rebuilds, migrations, and readers all the while."""

import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import steps
from conftest import ROOT, Database, Files, head
from misbehaviour import misbehaving, stall
from pauses import pausing, wait_for, wait_for_copy, wait_until_nothing_is_left
from steps import CUSTOMERS, FEATURES, SALES, Run, build_feature_store, csv_text, load_customers, load_month

from company_data import source
from company_data.errors import SourceUnavailable
from company_data.settings import CONNECTION_OPTIONS

MONTHS = ["2023-12-01", "2024-01-01", "2024-02-01"]
MONTH = "2024-02-01"
ROWS = 200
FALLBACK = "are deleted and inserted"


@pytest.fixture(autouse=True)
def dags() -> None:
    """The DAGs, read before threads run them: Airflow reads files of DAGs in the main thread alone."""
    for dag_id in (SALES, CUSTOMERS, FEATURES):
        steps.dag(dag_id)


def write_month(files: Files, value: int = 1, rows: int = ROWS, month: str = MONTH) -> None:
    """A month in which every sale has the value, and the stores it refers to."""
    files.write("stores.csv", "idx,location\n1,Porto\n2,Lisboa\n")
    sales = [(n, value, month, 1 + n % 2) for n in range(rows)]
    files.write(f"sales/{month}/sales.csv", csv_text("idx,value,date,store_idx", sales))


def write_months(files: Files) -> None:
    for month in [*MONTHS, "2024-03-01"]:
        write_month(files, month=month)


def write_customers(files: Files, version: int, ids: range = range(1, 101)) -> None:
    """Customer files in which every client has the version as its attribute in profile and activity."""
    files.write("customer_profiles.csv", csv_text("idx,attr_a,attr_b,attr_c", [(n, version, "A", "x") for n in ids]))
    files.write(
        "customer_activity.csv",
        csv_text("idx,valid_from,valid_to,scd_a,scd_b", [(n, "2020-01-01", "", version, 1) for n in ids]),
    )
    files.write("labels.csv", csv_text("idx,label", [(n, version % 2) for n in ids]))


@contextmanager
def reading(database: Database, *queries: str) -> Iterator[set[object]]:
    """Run queries as ds_user, each over and over in its own session, while the block runs; gather the answers."""
    answers: set[object] = set()
    finished = threading.Event()

    def read(query: str) -> None:
        with database.connect("ds_user") as connection:
            while not finished.is_set():
                answers.add(connection.execute(query).fetchone())

    with ThreadPoolExecutor(len(queries)) as pool:
        readers = [pool.submit(read, query) for query in queries]
        try:
            yield answers
        finally:
            finished.set()
            for reader in readers:
                reader.result(timeout=60)


def counts(database: Database) -> list[tuple[object, ...]]:
    return database.run("select date::text, count(*) from sales group by date order by date")


def values(database: Database) -> list[tuple[object, ...]]:
    """The different values of sales, and the sum in monthly_sales."""
    return database.run("select (select array_agg(distinct value) from sales), sum(value) from monthly_sales")


def wait_for_lock(database: Database, running: Future[Any]) -> None:
    """Wait until a session of a load waits for a lock."""
    wait_for(
        database,
        "select pid from pg_stat_activity where datname = current_database() and usename = 'pipeline'"
        " and wait_event_type = 'Lock'",
        running,
    )


# Months whose monthly_sales differ from the sums of sales, in one statement.
DIFFERENT_MONTHS = """
    select count(*)
    from (
        select date_trunc('month', date)::date as sale_month, store_idx, sum(value) as value
        from sales group by 1, 2
    ) as sums
    full join monthly_sales using (sale_month, store_idx)
    where sums.value is distinct from monthly_sales.value
"""


@pytest.mark.slow
def test_one_month_many_times_at_once_and_other_months_beside_it_end_right(database: Database, files: Files) -> None:
    write_months(files)
    with reading(database, DIFFERENT_MONTHS) as answers, ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(load_month, database, month) for month in [*MONTHS, MONTH, MONTH] * 3]
        for done in loads:
            done.result(timeout=120)
        write_month(files, value=5)
        load_month(database, MONTH)
    assert answers == {(0,)}
    assert counts(database) == [(month, ROWS) for month in MONTHS]
    assert database.run("select sale_month::text, sum(value) from monthly_sales group by 1 order by 1") == [
        *((month, ROWS) for month in MONTHS[:2]),
        (MONTH, 5 * ROWS),
    ]
    published = database.run("select count(*) from pipeline.loads where outcome = 'published'")
    assert published == [(len(MONTHS) + 1,)]
    wait_until_nothing_is_left(database)


@pytest.mark.parametrize("later_first", [True, False])
def test_of_two_runs_of_one_month_the_one_that_requested_later_wins(
    database: Database, files: Files, later_first: bool
) -> None:
    runs = []
    for value in (1, 2):
        write_month(files, value)
        run = Run(database, SALES, MONTH)
        run.run("stage_sales", "stage_stores", "check_month")
        runs.append(run)
    for run in reversed(runs) if later_first else runs:
        run.run("publish_month")
    assert values(database) == [([2], 2 * ROWS)]
    outcomes = database.run("select outcome from pipeline.loads where table_name = 'sales' order by load_id")
    assert outcomes == [("superseded",), ("published",)]


def test_a_month_waits_for_the_same_file_and_not_for_another_month(database: Database, files: Files) -> None:
    write_months(files)
    write_month(files, value=2)
    with database.connect() as holder, ThreadPoolExecutor(1) as pool:
        with holder.transaction():
            holder.execute(f"select pipeline.lock_file('sales', '{MONTH}')")
            same = pool.submit(load_month, database, MONTH)
            wait_for_lock(database, same)
            load_month(database, "2024-01-01")
            load_month(database, "2024-03-01")
            assert not same.done()
        same.result(timeout=60)
    assert counts(database) == [("2024-01-01", ROWS), (MONTH, ROWS), ("2024-03-01", ROWS)]


def test_a_lock_timeout_is_an_error_that_the_retry_survives(database: Database, files: Files) -> None:
    write_month(files)
    run = Run(database, SALES, MONTH)
    with database.connect() as holder, holder.transaction(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=100ms")
        holder.execute(f"select pipeline.lock_file('sales', '{MONTH}')")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run.run("stage_sales")
    run.run("stage_sales", "stage_stores", "check_month")
    with database.connect() as holder, holder.transaction(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=100ms")
        holder.execute("lock table stores in share mode")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run.run("publish_month")
    run.run("publish_month")
    assert values(database) == [([1], ROWS)]


TABLES = {
    "sales": "select sum(value) from sales",
    "monthly_sales": "select sum(value) from monthly_sales",
    "stores": "select count(*) from stores",
    "customer_profiles": "select sum(attr_a) from customer_profiles",
    "customer_activity": "select sum(scd_a) from customer_activity",
    "labels": "select sum(label) from labels",
    "feature_store": "select sum(attr_a) from feature_store",
}


@pytest.mark.slow
def test_loads_and_reloads_finish_while_a_reader_stays_in_a_transaction_on_every_table(
    database: Database, files: Files
) -> None:
    def seen(reader: psycopg.Connection[Any]) -> dict[str, int]:
        return {table: int(reader.execute(query).fetchall()[0][0]) for table, query in TABLES.items()}

    write_month(files, value=1)
    write_customers(files, 1)
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    with database.connect("ds_user") as reader, reader.transaction():
        reader.execute("set transaction isolation level repeatable read")
        old = seen(reader)
        write_month(files, value=2)
        write_customers(files, 2)
        reports = [*load_month(database, MONTH), *load_customers(database)]
        assert sum(FALLBACK in report for report in reports) == 4
        build_feature_store(database)
        write_month(files, month="2024-03-01")
        load_month(database, "2024-03-01")
        assert seen(reader) == old
    with database.connect("ds_user") as reader:
        assert seen(reader) == {
            "sales": 3 * ROWS,
            "monthly_sales": 3 * ROWS,
            "stores": 2,
            "customer_profiles": 200,
            "customer_activity": 200,
            "labels": 0,
            "feature_store": 200,
        }
    # Without the reader the partitions are replaced again.
    assert not any(FALLBACK in report for report in [*load_month(database, MONTH), *load_customers(database)])


@pytest.mark.slow
def test_monthly_sales_always_equal_the_sums_of_sales(database: Database, files: Files) -> None:
    with reading(database, DIFFERENT_MONTHS, DIFFERENT_MONTHS) as answers:
        for value in (1, 2, 3):
            write_month(files, value)
            load_month(database, MONTH)
            write_month(files, value, month="2024-01-01")
            load_month(database, "2024-01-01")
        with database.connect("ds_user") as idle, idle.transaction():
            idle.execute("select count(*) from sales")
            write_month(files, value=4)
            assert any(FALLBACK in report for report in load_month(database, MONTH))
    assert answers == {(0,)}


@pytest.mark.parametrize("point", ["load published", "insert public.monthly_sales", "before commit"])
def test_a_reader_at_a_point_of_a_publication_sees_the_old_month(database: Database, files: Files, point: str) -> None:
    write_month(files, value=1)
    load_month(database, MONTH)
    write_month(files, value=2)
    with pausing(database, point) as pause, ThreadPoolExecutor(2) as pool:
        load = pool.submit(load_month, database, MONTH)
        pause.wait(load)
        reader = pool.submit(database.run, DIFFERENT_MONTHS, "ds_user")
        if point == "before commit":  # the partition is replaced, and the reader waits for the commit
            wait_for(database, "select from pg_stat_activity where usename = 'ds_user' and wait_event_type = 'Lock'")
        else:
            assert reader.result(timeout=60) == [(0,)]
            assert values(database) == [([1], ROWS)]
        pause.release()
        load.result(timeout=60)
        assert reader.result(timeout=60) == [(0,)]
    assert values(database) == [([2], 2 * ROWS)]


@pytest.mark.slow
def test_customers_are_reloaded_while_readers_join_their_tables_in_different_orders(
    database: Database, files: Files
) -> None:
    write_customers(files, 1)
    load_customers(database)
    tables = ["customer_profiles", "customer_activity", "labels"]
    # Tables are locked in the order in which the statement names them.
    queries = [
        "select count(*), count(*) filter (where attr_a = scd_a and label = attr_a % 2), count(distinct attr_a)"
        f" from {first} join {second} using (idx) join {third} using (idx)"
        for first, second, third in itertools.permutations(tables)
    ]
    with reading(database, *queries[::2], queries[-1]) as answers:
        for version in range(2, 8):
            write_customers(files, version)
            load_customers(database)
    assert answers == {(100, 100, 1)}
    assert database.run("select distinct attr_a from customer_profiles") == [(7,)]


@pytest.mark.slow
def test_customer_loads_and_rebuilds_of_the_feature_store_at_once_never_show_a_mixture(
    database: Database, files: Files
) -> None:
    write_customers(files, 1)
    load_customers(database)
    build_feature_store(database)
    seen = "select count(*), count(*) filter (where attr_a = scd_a), count(distinct attr_a) from feature_store"
    with reading(database, seen) as answers, ThreadPoolExecutor(3) as pool:
        for version in range(2, 6):
            write_customers(files, version)
            running = [pool.submit(build_feature_store, database) for _ in range(2)]
            running.append(pool.submit(load_customers, database))
            for done in running:
                done.result(timeout=60)
    assert answers == {(100, 100, 1)}
    build_feature_store(database)
    assert database.run("select distinct attr_a, scd_a from feature_store") == [(5, 5.0)]


@pytest.mark.parametrize("first_load", [True, False])
def test_a_transaction_that_began_before_a_load_and_reads_after_it_sees_the_new_month_whole(
    database: Database, files: Files, first_load: bool
) -> None:
    if not first_load:
        write_month(files, value=1)
        load_month(database, MONTH)
    write_month(files, value=2, rows=3)
    with database.connect("ds_user") as reader, reader.transaction():
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from stores")  # takes the snapshot
        load_month(database, MONTH)
        # COPY has frozen the rows of the new partition, so that every snapshot sees them.
        assert reader.execute("select count(*), sum(value) from sales").fetchone() == (3, 6)


def test_a_load_that_stalls_in_its_copy_locks_no_table_in_public(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    with misbehaving(tmp_path) as (bucket, answers, _):
        monkeypatch.setattr(source, "CHUNK_BYTES", 1024)  # so that the copy begins before the file stalls
        monkeypatch.setenv("SOURCE_BASE_URL", bucket.url)
        monkeypatch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        files = Files(tmp_path, bucket)
        write_month(files)
        load_month(database, MONTH)
        answers[f"sales/{MONTH}/sales.csv"] = [stall(2048, released)]
        with ThreadPoolExecutor(1) as pool:
            stalled = pool.submit(load_month, database, MONTH)
            try:
                pid = wait_for_copy(database, stalled)
                locks = database.run(f"""
                    select relation::regclass::text, mode from pg_locks
                    left join pg_class on relation = pg_class.oid
                    where
                        pid = {pid}
                        and (locktype = 'advisory' or relnamespace::regnamespace::text in ('public', 'partitions'))
                """)
                # The same month, and a change of the table, do not wait for the file.
                write_month(files, value=2)
                load_month(database, MONTH)
                database.run("set lock_timeout = '10s'; alter table sales add column note text")
            finally:
                released.set()
            with pytest.raises(SourceUnavailable):
                stalled.result(timeout=60)
    assert locks == []
    assert values(database) == [([2], 2 * ROWS)]


@pytest.fixture
def migrate(database: Database, tmp_path: Path) -> Callable[[], None]:
    """Migrates the database to a revision that adds a column to public.sales."""
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "alembic", folder / "alembic")
    shutil.copy(ROOT / "alembic.ini", folder)
    (folder / "alembic/versions/9999_a_column_of_sales.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{head()}'\n"
        "def upgrade():\n    op.execute('alter table public.sales add column note text')\n"
        "def downgrade():\n    op.execute('alter table public.sales drop column note')\n"
    )
    environment = {**os.environ, "DATABASE_URL": database.url(driver="postgresql+psycopg2")}

    def upgrade() -> None:
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return upgrade


def write_month_with_note(files: Files) -> None:
    """The file of the month as the migrated table needs it."""
    rows = [(n, 3, MONTH, 1, "new") for n in range(ROWS)]
    files.write(f"sales/{MONTH}/sales.csv", csv_text("idx,value,date,store_idx,note", rows))


@pytest.mark.slow
def test_a_migration_waits_for_a_load_that_replaces_the_month(
    database: Database, files: Files, migrate: Callable[[], None]
) -> None:
    write_month(files, value=1)
    load_month(database, MONTH)
    write_month(files, value=2)
    with pausing(database, "before commit") as pause, ThreadPoolExecutor(2) as pool:
        load = pool.submit(load_month, database, MONTH)
        pause.wait(load)
        migration = pool.submit(migrate)
        wait_for(
            database,
            "select from pg_stat_activity where query like 'alter table public.sales%' and wait_event_type = 'Lock'",
            migration,
        )
        pause.release()
        load.result(timeout=60)
        migration.result(timeout=60)
    assert values(database) == [([2], 2 * ROWS)]
    write_month_with_note(files)
    load_month(database, MONTH)
    assert values(database) == [([3], 3 * ROWS)]
    assert database.run("select distinct note from sales") == [("new",)]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["file requested", "load staged", "load checked", "load published"])
def test_a_load_that_a_migration_overtakes_is_rejected_and_works_when_it_is_cleared(
    database: Database, files: Files, migrate: Callable[[], None], point: str
) -> None:
    write_month(files, value=1)
    load_month(database, MONTH)
    write_month(files, value=2)
    run = Run(database, SALES, MONTH)
    with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
        load = pool.submit(run.run)
        pause.wait(load)
        migrate()
        pause.release()
        with pytest.raises(psycopg.errors.CheckViolation, match=r"public\.sales has changed since the file was staged"):
            load.result(timeout=60)
    assert values(database) == [([1], ROWS)]
    write_month_with_note(files)
    run.run()
    assert values(database) == [([3], 3 * ROWS)]


@pytest.mark.slow
def test_rows_staged_before_a_migration_are_rejected_while_a_reader_stays_in_its_transaction_too(
    database: Database, files: Files
) -> None:
    write_month(files, value=1)
    load_month(database, MONTH)
    run = Run(database, SALES, MONTH)
    run.run("stage_sales", "stage_stores", "check_month")
    database.run("alter table sales add column note text")
    with database.connect("ds_user") as reader, reader.transaction():
        reader.execute("select count(*) from sales")
        with pytest.raises(psycopg.errors.CheckViolation, match=r"public\.sales has changed since the file was staged"):
            run.run("publish_month")
    assert values(database) == [([1], ROWS)]


REFERENCES = """
    create table branch_notes (
        store_idx integer constraint note_of_a_store references stores {clause}, note text
    );
    create table scores (
        client integer constraint score_of_a_client references feature_store {clause}, score numeric
    );
    insert into branch_notes select idx, 'note' from stores;
    insert into scores select idx, 0.5 from feature_store;
"""


def write_stores(files: Files, *stores: tuple[int, str]) -> None:
    """A store list, and a month in which the first store sold something."""
    files.write("stores.csv", csv_text("idx,location", stores))
    files.write(f"sales/{MONTH}/sales.csv", csv_text("idx,value,date,store_idx", [(1, 1, MONTH, stores[0][0])]))


def versions_of_rows(database: Database, table: str) -> dict[int, tuple[object, ...]]:
    """Where each row is and which transactions wrote and locked it, by its key."""
    return {row[0]: row[1:] for row in database.run(f"select idx, ctid::text, xmin::text, xmax::text from {table}")}


@pytest.mark.parametrize("clause", ["", "on delete cascade"])
def test_foreign_keys_of_other_tables_keep_their_rows_while_the_rows_they_refer_to_stay(
    database: Database, files: Files, clause: str
) -> None:
    write_stores(files, (1, "Porto"), (2, "Lisboa"), (3, "Faro"))
    write_customers(files, 1, range(1, 4))
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    with database.connect("mle_user") as connection:
        connection.execute(REFERENCES.format(clause=clause))
    stores, clients = versions_of_rows(database, "stores"), versions_of_rows(database, "feature_store")

    for _ in range(2):
        load_month(database, MONTH)
        load_customers(database)
        build_feature_store(database)
    assert versions_of_rows(database, "stores") == stores
    assert versions_of_rows(database, "feature_store") == clients

    # One store moves, one client comes: the other rows stay untouched.
    write_stores(files, (1, "Porto"), (2, "Braga"), (3, "Faro"))
    write_customers(files, 1, range(1, 5))
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    found = versions_of_rows(database, "stores")
    assert {idx for idx in found if found[idx] != stores.get(idx)} == {2}
    found = versions_of_rows(database, "feature_store")
    assert {idx for idx in found if found[idx] != clients.get(idx)} == {4}
    assert database.run("select count(*) from branch_notes") == [(3,)]
    assert database.run("select count(*) from scores") == [(3,)]


def test_a_row_that_vanishes_while_another_table_refers_to_it_is_an_error_that_names_it(
    database: Database, files: Files
) -> None:
    write_stores(files, (1, "Porto"), (2, "Lisboa"))
    write_customers(files, 1, range(1, 4))
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    with database.connect("mle_user") as connection:
        connection.execute(REFERENCES.format(clause=""))
    write_stores(files, (1, "Porto"))
    write_customers(files, 2, range(1, 3))
    run = Run(database, SALES, MONTH)
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as store:
        run.run()
    assert '"note_of_a_store" on table "branch_notes"' in str(store.value)
    assert "Key (idx)=(2) is still referenced" in str(store.value)
    load_customers(database)
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as client:
        build_feature_store(database)
    assert '"score_of_a_client" on table "scores"' in str(client.value)
    assert "Key (idx)=(3) is still referenced" in str(client.value)
    assert database.run("select array_agg(idx order by idx) from stores") == [([1, 2],)]
    assert database.run("select array_agg(idx order by idx) from feature_store") == [([1, 2, 3],)]

    database.run("delete from branch_notes where store_idx = 2", "mle_user")
    database.run("delete from scores where client = 3", "mle_user")
    run.run("publish_month")
    build_feature_store(database)
    assert database.run("select array_agg(idx order by idx) from stores") == [([1],)]
    assert database.run("select array_agg(idx order by idx) from feature_store") == [([1, 2],)]


def test_a_row_that_vanishes_takes_the_rows_that_refer_to_it_where_these_cascade(
    database: Database, files: Files
) -> None:
    write_stores(files, (1, "Porto"), (2, "Lisboa"))
    write_customers(files, 1, range(1, 4))
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    with database.connect("mle_user") as connection:
        connection.execute(REFERENCES.format(clause="on delete cascade"))
    write_stores(files, (1, "Porto"))
    write_customers(files, 2, range(1, 3))
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    assert database.run("select array_agg(store_idx) from branch_notes") == [([1],)]
    assert database.run("select array_agg(client order by client) from scores") == [([1, 2],)]
