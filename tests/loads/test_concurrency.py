"""Runs side by side: one month twice, several months, rebuilds, migrations, keys of other tables, and readers."""

import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from conftest import ROOT, Database, Files, Rows, head
from support import steps
from support.breakpoints import WAIT_SECONDS, pausing, wait_for_copy, wait_until_blocked
from support.faulty_bucket import Answer, MisbehavingHandler, misbehaving
from support.steps import (
    CUSTOMERS,
    FEATURES,
    SALES,
    Run,
    build_feature_store,
    csv_text,
    load_customers,
    load_month,
    staged_tables,
)

from company_data import source
from company_data.errors import FileRejected
from company_data.loads import SUPERSEDED
from company_data.settings import CONNECTION_OPTIONS

pytestmark = pytest.mark.slow

SEED = 20240204
ROWS = 300
JANUARY, FEBRUARY, MARCH = MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01"]
HEADER = "idx,value,date,store_idx"
CLIENTS = 100
CUSTOMER_TABLES = ["customer_profiles", "customer_activity", "labels"]
RELOADS = 10  # of a month and the customers, with vacuums between them
SHORT_RELOADS = 190  # of the month alone, without a download


@pytest.fixture(autouse=True)
def dags() -> None:
    """The DAGs, read before threads run them: Airflow reads DAG files in the main thread alone."""
    for dag_id in (SALES, CUSTOMERS, FEATURES):
        steps.dag(dag_id)


# One row for each store and month in which monthly_sales is not the sum of sales, or names another location.
DIFFERENCES = """
    select sale_month, store_idx, total, monthly_sales.value, stores.location, monthly_sales.location
    from (
        select date_trunc('month', date)::date as sale_month, store_idx, sum(value) as total
        from sales
        group by date_trunc('month', date), store_idx
    ) as sums
    full join monthly_sales using (sale_month, store_idx)
    left join stores on store_idx = stores.idx
    where (total, stores.location) is distinct from (monthly_sales.value, monthly_sales.location)
"""


def path_of(month: str) -> str:
    return f"sales/{month}/sales.csv"


def sales_text(month: str, version: int, rows: int = ROWS) -> str:
    """A month whose sales all have the version as their value."""
    return csv_text(HEADER, [(n, version, month, n % 2 + 1) for n in range(rows)])


def write_months(files: Files, version: int = 1, months: list[str] = MONTHS) -> None:
    files.write("stores.csv", "idx,location\n1,Porto\n2,Faro\n")
    for month in months:
        files.write(path_of(month), sales_text(month, version))


def months_of(database: Database) -> Rows:
    """The months that readers see: month, version, and number of sales of that version."""
    return database.run("select date::text, value::int, count(*) from sales group by 1, 2 order by 1, 2", "ds_user")


def assert_tables_agree(database: Database) -> None:
    assert database.run(DIFFERENCES, "ds_user") == []


def write_customers(files: Files, version: int) -> None:
    """Files whose version shows in the attributes, and for labels in the number of clients."""
    ids = range(CLIENTS)
    files.write("customer_profiles.csv", csv_text("idx,attr_a,attr_b,attr_c", [(n, version, "A", "x") for n in ids]))
    files.write(
        "customer_activity.csv",
        csv_text("idx,valid_from,valid_to,scd_a,scd_b", [(n, "2020-01-01", "", version, 1) for n in ids]),
    )
    files.write("labels.csv", csv_text("idx,label", [(n, 0) for n in range(CLIENTS + version)]))


VERSION_IN = {
    "customer_profiles": "(select string_agg(distinct attr_a::text, ',') from customer_profiles)",
    "customer_activity": "(select string_agg(distinct scd_a::text, ',') from customer_activity)",
    "labels": f"(select count(*) - {CLIENTS} from labels)",
}


def customers(*tables: str) -> str:
    """A query for the versions of the customer tables, which locks them in this order; "2 2 2" is a whole version."""
    return f"select concat_ws(' ', {', '.join(VERSION_IN[table] for table in tables or CUSTOMER_TABLES)})"


STATUSES_OF_SALES = """
    select status from pipeline.loads inner join pipeline.files using (file_id)
    where table_name = 'sales'
    order by load_id
"""

LOCK_FILE = "select from pipeline.files where (table_name, file_month) = ('sales', %s) for no key update"


@contextmanager
def reading(database: Database, *queries: str) -> Iterator[list[set[tuple[Any, ...]]]]:
    """Run each query repeatedly as ds_user, in a session of its own, while the block runs.

    Yields:
        For each query the different rows that it returned. There is an answer from before the block, and at the end
        one from after it.
    """
    answers: list[set[tuple[Any, ...]]] = [set() for _ in queries]
    finished = threading.Event()
    deadline = time.monotonic() + 3 * WAIT_SECONDS

    def read(connection: psycopg.Connection[Any], query: str, found: set[tuple[Any, ...]]) -> None:
        while not finished.wait(0.002):
            found.update(connection.execute(query).fetchall())
            assert time.monotonic() < deadline, "the block has not ended"

    with ExitStack() as stack, ThreadPoolExecutor(len(queries)) as pool:
        connections = [stack.enter_context(database.connect("ds_user")) for _ in queries]
        for connection, query, found in zip(connections, queries, answers, strict=True):
            found.update(connection.execute(query).fetchall())
        readers = [pool.submit(read, *each) for each in zip(connections, queries, answers, strict=True)]
        try:
            yield answers
        finally:
            finished.set()
        all_results(readers)
        for connection, query, found in zip(connections, queries, answers, strict=True):
            found.update(connection.execute(query).fetchall())


def all_results(running: list[Future[Any]]) -> list[Any]:
    """What all have returned; the first error is raised."""
    return [each.result(timeout=WAIT_SECONDS) for each in running]


def idle_reader(
    database: Database, stack: ExitStack, *tables: str, repeatable: bool = False
) -> psycopg.Connection[Any]:
    """A session of ds_user that has read tables and stays idle in its transaction until the stack ends."""
    reader = stack.enter_context(database.connect("ds_user"))
    if repeatable:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    stack.enter_context(reader.transaction())
    for table in tables:
        reader.execute(f"select count(*) from {table}")
    return reader


def rows_of(connection: psycopg.Connection[Any], query: str) -> Rows:
    return connection.execute(query).fetchall()


# Runs of sales


def numbered_answers(text_of: Callable[[int], str], count: int) -> list[Answer]:
    """Answers of which the first request gets the text of version 1, the next that of version 2, and so on."""

    def answer(version: int) -> Answer:
        def send(handler: MisbehavingHandler) -> None:
            text = text_of(version).encode()
            handler.head(Content_Length=len(text))
            handler.wfile.write(text)

        return send

    return [answer(version) for version in range(1, count + 1)]


def pausing_at(byte: int, released: threading.Event) -> Answer:
    """An answer that pauses after so many bytes of the file, until it is released."""

    def send(handler: MisbehavingHandler) -> None:
        text = handler.content()
        handler.head(Content_Length=len(text))
        handler.wfile.write(text[:byte])
        handler.wfile.flush()
        released.wait(WAIT_SECONDS)
        handler.wfile.write(text[byte:])

    return send


FaultyFiles = tuple[Files, dict[str, list[Answer]]]


@pytest.fixture
def misbehaving_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyFiles]:
    """A bucket, and the answers that it gives before it behaves."""
    with misbehaving(tmp_path) as (bucket, answers, _):
        monkeypatch.setenv("SOURCE_BASE_URL", bucket.url)
        monkeypatch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        yield Files(tmp_path, bucket), answers


def test_one_month_many_times_at_once_and_other_months_beside_it_end_with_the_file_that_was_requested_last(
    database: Database, misbehaving_files: FaultyFiles
) -> None:
    files, answers = misbehaving_files
    write_months(files, 0)
    for month in MONTHS:
        load_month(database, month)
    loads = [JANUARY, FEBRUARY, FEBRUARY, MARCH, FEBRUARY] * 4
    random.Random(SEED).shuffle(loads)  # noqa: S311 - no secret
    print("seed", SEED, loads)
    for month in MONTHS:
        answers[path_of(month)] = numbered_answers(partial(sales_text, month), loads.count(month))
    counts = "select count(*), count(distinct (date, value)) from sales"
    with reading(database, counts, DIFFERENCES) as (found, differences), ThreadPoolExecutor(8) as pool:
        all_results([pool.submit(load_month, database, month) for month in loads])
    assert (found, differences) == ({(3 * ROWS, 3)}, set())
    assert months_of(database) == [(month, loads.count(month), ROWS) for month in MONTHS]
    newest = database.run("""
        select distinct on (file_id) status from pipeline.loads order by file_id, request_number desc
    """)
    assert newest == [("published",)] * 4
    assert staged_tables(database) == []
    assert_tables_agree(database)


def test_staged_rows_are_left_to_a_session_that_is_about_to_read_them(database: Database, files: Files) -> None:
    write_months(files, 1)
    run = Run(database, SALES, FEBRUARY)
    run.run("stage_sales", "stage_stores")
    load = run.loads["stage_sales"]
    with database.connect("pipeline") as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("select pipeline.open_staged(%s, 'staged_sales')", [load])
        load_month(database, FEBRUARY)
        with reader.transaction():
            # Locks the view and not yet its table, as a query does at first.
            reader.execute("comment on view staged_sales is ''")
            discard = pool.submit(database.run, f"select pipeline.drop_staged({load})", "pipeline")
            discard.result(timeout=WAIT_SECONDS)
            assert reader.execute("select count(*) from staged_sales").fetchall() == [(ROWS,)]
    assert database.run(f"select status from pipeline.loads where load_id = {load}") == [("superseded",)]


def two_checked_runs(database: Database, files: Files) -> list[Run]:
    """Runs of February with the versions 2 and 3 of its file, up to their checks; version 1 is published."""
    write_months(files, 1)
    load_month(database, FEBRUARY)
    runs = []
    for version in (2, 3):
        write_months(files, version)
        run = Run(database, SALES, FEBRUARY)
        run.run("stage_sales", "stage_stores", "check_month")
        runs.append(run)
    return runs


@pytest.mark.parametrize("later_publishes_first", [False, True])
def test_of_two_runs_of_one_month_the_one_that_requested_later_wins(
    database: Database, files: Files, later_publishes_first: bool
) -> None:
    runs = two_checked_runs(database, files)
    order = list(reversed(runs)) if later_publishes_first else runs
    for run in order:
        run.run("publish_month")
        assert months_of(database) in [[(FEBRUARY, version, ROWS)] for version in (2, 3)]
        assert_tables_agree(database)
    assert months_of(database) == [(FEBRUARY, 3, ROWS)]
    statuses = database.run(STATUSES_OF_SALES)
    assert statuses == [("superseded",), ("superseded",), ("published",)]


@pytest.mark.parametrize("later_publishes_first", [False, True])
def test_of_two_runs_that_publish_one_month_at_once_the_second_waits_for_the_first(
    database: Database, files: Files, later_publishes_first: bool
) -> None:
    runs = two_checked_runs(database, files)
    first, second = reversed(runs) if later_publishes_first else runs
    with pausing(database, "insert public.sales") as pause, ThreadPoolExecutor(2) as pool:
        publishes_first = pool.submit(first.run, "publish_month")
        pid = pause.wait(publishes_first)
        publishes_second = pool.submit(second.run, "publish_month")
        wait_until_blocked(database, pid, publishes_second)
        pause.release()
        all_results([publishes_first, publishes_second])
    assert months_of(database) == [(FEBRUARY, 3, ROWS)]
    assert_tables_agree(database)
    statuses = database.run(STATUSES_OF_SALES)
    assert statuses == [("superseded",), ("superseded",), ("published",)]


@contextmanager
def suppress_superseded() -> Iterator[None]:
    """Take the error that says that a load is superseded for the end of the task, as its operator does."""
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate != SUPERSEDED:
            raise


def test_a_run_whose_month_other_runs_publish_at_any_point_of_its_check_is_skipped(
    database: Database, files: Files
) -> None:
    write_months(files, 1)
    older = Run(database, SALES, FEBRUARY)
    check = older.dag.get_task("check_month")
    statements = DbApiHook.split_sql_string(check.sql)
    # A run that publishes waits for the verdicts of another, from this statement on until they are committed.
    [verdicts] = [number for number, statement in enumerate(statements) if "check_load" in statement]
    version = 1
    for point in [*range(verdicts + 1), len(statements)]:
        older.run("stage_sales", "stage_stores")
        parameters = older.parameters("check_month")
        with steps.connect(database) as checking, suppress_superseded(), ExitStack() as stack:
            stack.enter_context(checking.transaction())
            for statement in statements[:point]:
                checking.execute(statement, parameters)
            if point == len(statements):
                stack.close()
            # The first of them supersedes the older run, the second removes what superseded runs have left.
            for _ in range(2):
                version += 1
                write_months(files, version)
                load_month(database, FEBRUARY)
            for statement in statements[point:]:
                checking.execute(statement, parameters)
        older.run("compare_month")
        older.run("publish_month")
        assert months_of(database) == [(FEBRUARY, version, ROWS)]
        assert_tables_agree(database)
    load_month(database, FEBRUARY)
    assert staged_tables(database) == []


def test_a_month_is_checked_with_its_stores_although_other_months_have_published_newer_ones(
    database: Database, files: Files
) -> None:
    write_months(files)
    january = Run(database, SALES, JANUARY)
    tasks = list(january.tasks)
    january.run(*tasks[:2])
    # The first of them supersedes January's stores, the second removes what superseded loads have left.
    load_month(database, FEBRUARY)
    load_month(database, MARCH)
    january.run(*tasks[2:])
    assert months_of(database) == [(month, 1, ROWS) for month in MONTHS]
    assert_tables_agree(database)
    assert staged_tables(database) == []


def test_a_month_that_is_staged_again_alone_is_not_skipped_although_its_stores_are_superseded(
    database: Database, files: Files
) -> None:
    write_months(files, 1)
    january = Run(database, SALES, JANUARY)
    january.run()
    load_month(database, FEBRUARY)
    write_months(files, 2)
    # As an operator who clears stage_sales with what follows it: the stores of the run are superseded and dropped.
    assert staged_tables(database) == []
    january.run("stage_sales")
    with pytest.raises(psycopg.errors.CheckViolation, match="Clear this run from its staging tasks on"):
        january.run("check_month")
    assert months_of(database) == [(JANUARY, 1, ROWS), (FEBRUARY, 1, ROWS)]
    january.run()
    assert months_of(database) == [(JANUARY, 2, ROWS), (FEBRUARY, 1, ROWS)]
    assert_tables_agree(database)


def test_the_file_of_a_month_is_locked_for_that_month_alone(database: Database, files: Files) -> None:
    write_months(files)
    load_month(database, FEBRUARY)
    write_months(files, 2)
    with database.connect() as holder, ThreadPoolExecutor(1) as pool:
        with holder.transaction():
            holder.execute(LOCK_FILE, [FEBRUARY])
            same = pool.submit(load_month, database, FEBRUARY)
            wait_until_blocked(database, holder.info.backend_pid, same)
            load_month(database, JANUARY)
            load_month(database, MARCH)
            assert months_of(database) == [(JANUARY, 2, ROWS), (FEBRUARY, 1, ROWS), (MARCH, 2, ROWS)]
        all_results([same])
    assert months_of(database) == [(month, 2, ROWS) for month in MONTHS]


def test_a_load_that_waits_for_its_download_holds_no_lock_that_a_reader_or_another_load_needs(
    database: Database, misbehaving_files: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "READ_TIMEOUT", 2 * WAIT_SECONDS)
    files, answers = misbehaving_files
    write_months(files, 1)
    load_month(database, JANUARY)
    released = threading.Event()
    # More than the loader reads at once, so that COPY has begun when the rest does not come.
    text = sales_text(FEBRUARY, 1, rows=40_000)
    files.write(path_of(FEBRUARY), text)
    answers[path_of(FEBRUARY)] = [pausing_at(len(text) * 9 // 10, released)]
    with ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(load_month, database, FEBRUARY)
        try:
            pid = wait_for_copy(database, stalled)
            locks = database.run(f"""
                select relation::regclass::text, mode
                from pg_locks
                inner join pg_class on relation = pg_class.oid
                where pid = {pid} and relnamespace in ('public'::regnamespace, 'partitions'::regnamespace)
            """)
            assert locks == []
            write_months(files, 2)
            for month in MONTHS:
                load_month(database, month)
        finally:
            released.set()
        # What was stalled was requested first, so it is not published.
        all_results([stalled])
    assert months_of(database) == [(month, 2, ROWS) for month in MONTHS]


def test_a_run_gives_up_after_lock_timeout_and_its_retry_works(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_months(files)
    load_month(database, FEBRUARY)
    write_months(files, 2)
    run = Run(database, SALES, FEBRUARY)
    monkeypatch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=100ms")
    with database.connect() as holder:
        for task in (task for task in run.tasks if task != "approve_month"):
            with holder.transaction():
                holder.execute("select from pipeline.files for no key update")
                holder.execute("lock table pipeline.sales_by_store, pipeline.anomaly_checks in share mode")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    run.run(task)
            run.run(task)
    assert months_of(database) == [(FEBRUARY, 2, ROWS)]
    assert_tables_agree(database)


# Readers


def vacuum(database: Database, *tables: str) -> None:
    """Vacuum tables as autovacuum does, which would truncate their ends if it may."""
    with database.connect() as admin:
        for table in tables:
            admin.execute(f"vacuum {table}")


def sizes(database: Database, *tables: str) -> list[int]:
    """The size of each table."""
    return [database.run(f"select pg_relation_size('{table}')")[0][0] for table in tables]


def reload_month(database: Database, run: Run, version: int, rows: int) -> None:
    """Load the month of a published run again by the functions and the file of its tasks, without a download."""
    with steps.connect(database) as connection:
        [(load,)] = connection.execute(
            "select pipeline.begin_load('sales', %s, 'https://bucket', 'test', 'test')", [run.month]
        ).fetchall()
        connection.execute("select pipeline.request_file(%s)", [load])
        with connection.transaction():
            [(table,)] = connection.execute("select pipeline.create_staged(%s)", [load]).fetchall()
            connection.execute(
                f"insert into {table} select n, %s, %s, n %% 2 + 1 from generate_series(1, %s) as n".encode(),
                [version, run.month, rows],
            )
            connection.execute("select pipeline.stage_load(%s, null, null, 1, %s, %s)", [load, str(version), rows])
        connection.execute("select pipeline.check_load(%s, null, %s, %s)", [load, run.month, version * rows])
        parameters = {**run.parameters("publish_month"), "sales_load": load}
        steps.run_sql(connection, run.dag.get_task("publish_month").sql, parameters, one_by_one=True)


def test_no_reader_waits_even_a_moment_while_months_and_customers_are_loaded_again_and_vacuumed(
    database: Database, files: Files
) -> None:
    run = Run(database, SALES, FEBRUARY)
    few, many, emptied = 10, 5 * ROWS, ["partitions.sales_2024_02", "monthly_sales", *CUSTOMER_TABLES]
    queries = [DIFFERENCES, "select count(*), count(distinct value) from sales", customers(), customers("labels")]
    with ExitStack() as stack, ThreadPoolExecutor(len(queries)) as pool:
        # A reader that would wait for a lock for more than a millisecond is refused.
        readers = [stack.enter_context(database.connect("ds_user")) for _ in queries]
        for reader in readers:
            reader.execute("set lock_timeout = '1ms'")
        finished = threading.Event()
        deadline = time.monotonic() + 3 * WAIT_SECONDS

        def read(reader: psycopg.Connection[Any], query: str) -> list[tuple[Any, ...]]:
            found = set(reader.execute(query).fetchall())
            while not finished.is_set():
                found.update(reader.execute(query).fetchall())
                assert time.monotonic() < deadline, "the loads have not ended"
            return sorted(found)

        running = [pool.submit(read, *each) for each in zip(readers, queries, strict=True)]
        try:
            for version in range(1, RELOADS + SHORT_RELOADS + 1):
                # Every second file is small, so that the tables have empty pages at their ends.
                rows = few if version % 2 == 0 else many
                if version > RELOADS:
                    reload_month(database, run, version, rows)
                    vacuum(database, *emptied[:2])
                    continue
                files.write("stores.csv", f"idx,location\n1,Porto {version}\n2,Faro\n")
                files.write(path_of(FEBRUARY), sales_text(FEBRUARY, version, rows))
                write_customers(files, version)
                run.run()
                load_customers(database)
                before = sizes(database, *emptied)
                vacuum(database, *emptied, "stores")
                # A truncation would refuse the readers only now and then.
                assert sizes(database, *emptied) == before
        finally:
            finished.set()
        differences, counts, versions, _ = all_results(running)
    # Whether a vacuum finds empty pages depends on what the readers still see, so the setting is looked at too.
    emptied_are_kept = " and ".join(
        f"(select 'vacuum_truncate=off' = any(reloptions) from pg_class where oid = '{table}'::regclass)"
        for table in emptied
    )
    assert database.run(f"select {emptied_are_kept}") == [(True,)]
    assert {row for row in differences if row[2] != row[3]} == set()
    assert set(counts) <= {(0, 0), (few, 1), (many, 1)}
    # Before the first load no table has a row.
    whole = {f"{version} {version} {version}" for version in range(1, RELOADS + 1)} | {str(-CLIENTS)}
    assert {version for (version,) in versions} <= whole


def test_loads_neither_wait_nor_take_another_path_while_a_reader_is_idle_in_a_transaction_on_every_table(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_months(files, 1)
    write_customers(files, 1)
    load_month(database, FEBRUARY)
    load_customers(database)
    build_feature_store(database)
    tables = database.run(
        "select format('public.%I', relname) from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v')"
    )
    assert len(tables) > 7
    alone = load_month(database, FEBRUARY), load_customers(database)
    partitions = "select distinct tableoid from sales where date = '2024-02-01'"
    partition = database.run(partitions)
    with ExitStack() as stack:
        idle_reader(database, stack, *(name for (name,) in tables))
        # A load that waited for the reader would fail.
        monkeypatch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=1ms")
        assert (load_month(database, FEBRUARY), load_customers(database)) == alone
        write_months(files, 2)
        write_customers(files, 2)
        load_month(database, MARCH)
        load_month(database, FEBRUARY)
        load_customers(database)
        build_feature_store(database)
        assert months_of(database) == [(FEBRUARY, 2, ROWS), (MARCH, 2, ROWS)]
        assert_tables_agree(database)
        assert database.run(customers(), "ds_user") == [("2 2 2",)]
        assert database.run("select distinct attr_a, scd_a from feature_store") == [(2, 2.0)]
        assert staged_tables(database) == []
    assert database.run(partitions) == partition


def test_a_session_that_holds_sales_open_changes_nothing_for_months_that_are_loaded(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        idle_reader(database, stack, "sales", repeatable=True)
        monkeypatch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=1ms")
        for version in (1, 2, 3):
            write_months(files, version)
            for month in MONTHS:
                reports = load_month(database, month)
                assert reports[-1] == (f"monthly_sales of {month}: 2 stores, total {version * ROWS}, of {ROWS} sales")
                assert len(reports) == (1 if version == 1 else 2)
            assert months_of(database) == [(month, version, ROWS) for month in MONTHS]
            assert_tables_agree(database)
            assert staged_tables(database) == []


VERSIONS_OF_MONTHS = """
    select
        (select jsonb_agg(distinct value::integer) from sales where date = '2024-02-01'),
        (select count(*) from sales where date = '2024-02-01'),
        (select jsonb_agg(location order by idx) from stores),
        (select jsonb_agg(distinct location order by location) from monthly_sales where sale_month = '2024-02-01'),
        (select sum(value)::integer from monthly_sales where sale_month = '2024-02-01')
"""


def write_everything(files: Files, version: int) -> None:
    """Files of all tables, each with the version in it."""
    write_months(files, version)
    files.write("stores.csv", f"idx,location\n1,A {version}\n2,B {version}\n")
    write_customers(files, version)


def seen(version: int) -> Rows:
    """What VERSIONS_OF_MONTHS returns for write_everything; version 0 is before the first load."""
    if version == 0:
        return [(None, 0, None, None, None)]
    cities = [f"A {version}", f"B {version}"]
    return [([version], ROWS, cities, cities, version * ROWS)]


@pytest.mark.parametrize("is_loaded_before", [False, True])
def test_a_repeatable_read_transaction_sees_one_version_of_every_table_before_and_after_loads(
    database: Database, files: Files, is_loaded_before: bool
) -> None:
    old, old_customers = (1, "1 1 1") if is_loaded_before else (0, str(-CLIENTS))
    if is_loaded_before:
        write_everything(files, 1)
        load_month(database, FEBRUARY)
        load_customers(database)
    with ExitStack() as stack:
        # Each has read one of the tables, and reads the others for the first time after the loads.
        touched = ("data_freshness", "sales", "stores", "labels")
        readers = [idle_reader(database, stack, table, repeatable=True) for table in touched]
        for version in (2, 3):
            write_everything(files, version)
            load_month(database, FEBRUARY)
            load_customers(database)
            vacuum(database, "sales", "monthly_sales", "stores", *CUSTOMER_TABLES)
            for reader in readers:
                assert rows_of(reader, VERSIONS_OF_MONTHS) == seen(old)
                assert rows_of(reader, customers()) == [(old_customers,)]
                assert rows_of(reader, DIFFERENCES) == []
            assert database.run(VERSIONS_OF_MONTHS, "ds_user") == seen(version)
            assert database.run(customers(), "ds_user") == [(f"{version} {version} {version}",)]


def test_a_transaction_that_is_not_repeatable_sees_each_version_from_its_commit_on(
    database: Database, files: Files
) -> None:
    with ExitStack() as stack:
        reader = idle_reader(database, stack, "sales", "stores", "monthly_sales", *CUSTOMER_TABLES)
        for version in (1, 2, 3):
            write_everything(files, version)
            load_month(database, FEBRUARY)
            load_customers(database)
            assert rows_of(reader, VERSIONS_OF_MONTHS) == seen(version)
            assert rows_of(reader, customers()) == [(f"{version} {version} {version}",)]


@pytest.mark.parametrize("is_loaded_before", [False, True])
def test_readers_see_the_old_month_without_waiting_until_the_load_commits(
    database: Database, files: Files, is_loaded_before: bool
) -> None:
    if is_loaded_before:
        write_everything(files, 1)
        load_month(database, FEBRUARY)
    write_everything(files, 2)
    points = [
        "sales begun",
        "sales requested",
        "sales staged",
        "sales checked",
        "sales published",
        "stores published",
        "insert public.stores",
        "delete public.sales",
        "insert public.sales",
        "delete public.monthly_sales",
        "insert public.monthly_sales",
        "before commit",
    ]
    old = seen(1 if is_loaded_before else 0)
    with database.connect("ds_user") as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("set lock_timeout = '1ms'")
        with ExitStack() as stack:
            pauses = [stack.enter_context(pausing(database, point)) for point in points]
            load = pool.submit(load_month, database, FEBRUARY)
            for pause in pauses:
                pause.wait(load)
                assert rows_of(reader, VERSIONS_OF_MONTHS) == old
                assert rows_of(reader, DIFFERENCES) == []
                pause.release()
            all_results([load])
        assert rows_of(reader, VERSIONS_OF_MONTHS) == seen(2)


@pytest.mark.parametrize("is_loaded_before", [False, True])
def test_no_statement_ever_sees_monthly_sales_differ_from_the_sums_of_sales(
    database: Database, files: Files, is_loaded_before: bool
) -> None:
    write_months(files, 1)
    if is_loaded_before:
        for month in MONTHS:
            load_month(database, month)
    whole = "select distinct value::int, count(*) from sales where date = '2024-02-01' group by value"
    # The same in another order of tables, and so of locks.
    reverse = """
        select count(*)
        from monthly_sales
        left join (select date as sale_month, store_idx, sum(value) as total from sales group by 1, 2) as sums
            using (sale_month, store_idx)
        where value <> total
    """
    with reading(database, DIFFERENCES, whole, reverse) as (differences, versions, reversed_differences):
        for version in range(2, 6):
            files.write("stores.csv", f"idx,location\n1,Porto {version}\n2,Faro\n")
            for month in MONTHS:
                files.write(path_of(month), sales_text(month, version))
                load_month(database, month)
    # The store's location is that of the newest load of any month, so only differences of value count.
    assert {row for row in differences if row[2] != row[3]} == set()
    assert reversed_differences == {(0,)}
    assert versions <= {(version, ROWS) for version in range(1, 6)}
    assert (5, ROWS) in versions


def test_four_months_side_by_side_are_all_loaded(database: Database, files: Files) -> None:
    months = [*MONTHS, "2024-04-01"]
    for version in range(1, 4):
        for month in months:
            files.write(path_of(month), sales_text(month, version))
        files.write("stores.csv", f"idx,location\n1,Porto {version}\n2,Faro {version}\n")
        runs = [Run(database, SALES, month) for month in months]
        with ThreadPoolExecutor(len(months)) as pool:
            all_results([pool.submit(run.run) for run in runs])
        assert months_of(database) == [(month, version, ROWS) for month in months]
        assert database.run("select location from stores order by idx") == [(f"Porto {version}",), (f"Faro {version}",)]
        assert_tables_agree(database)
    assert database.run("select distinct status from month_status") == [("loaded",)]


def test_four_months_that_publish_at_once_wait_for_the_list_of_stores_alone(database: Database, files: Files) -> None:
    months = [*MONTHS, "2024-04-01"]
    write_months(files, 1, months)
    runs = [Run(database, SALES, month) for month in months]
    for run in runs:
        run.run("stage_sales", "stage_stores", "check_month", "compare_month")
    with pausing(database, "insert public.sales") as pause, ThreadPoolExecutor(len(months)) as pool:
        first = pool.submit(runs[0].run, "publish_month")
        pid = pause.wait(first)
        others = [pool.submit(run.run, "publish_month") for run in runs[1:]]
        wait_until_blocked(database, pid)
        assert months_of(database) == []
        pause.release()
        all_results([first, *others])
    assert months_of(database) == [(month, 1, ROWS) for month in months]
    assert_tables_agree(database)
    assert staged_tables(database) == []


def test_a_person_who_looks_at_staged_rows_delays_no_load(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_months(files, 1)
    run = Run(database, SALES, FEBRUARY)
    run.run("stage_sales", "stage_stores", "check_month")
    monkeypatch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=1ms")
    with database.connect() as looker:
        with looker.transaction():
            for table in staged_tables(database):
                looker.execute(f"select count(*) from staging.{table}")
            load_month(database, JANUARY)
            run.run("publish_month")
            write_months(files, 2)
            load_month(database, MARCH)
        assert months_of(database) == [(JANUARY, 1, ROWS), (FEBRUARY, 1, ROWS), (MARCH, 2, ROWS)]
    load_month(database, FEBRUARY)
    assert staged_tables(database) == []
    assert_tables_agree(database)


# Customers


def test_customers_are_loaded_again_while_readers_are_idle_in_a_transaction(database: Database, files: Files) -> None:
    write_customers(files, 1)
    load_customers(database)
    with ExitStack() as stack:
        places = [[CUSTOMER_TABLES[0]], [CUSTOMER_TABLES[2]], CUSTOMER_TABLES]
        readers = [idle_reader(database, stack, *tables) for tables in places]
        with_snapshots = [idle_reader(database, stack, *tables, repeatable=True) for tables in places]
        for version in (2, 3):
            write_customers(files, version)
            load_customers(database)
            assert database.run(customers(), "ds_user") == [(f"{version} {version} {version}",)]
            for reader in readers:
                assert rows_of(reader, customers()) == [(f"{version} {version} {version}",)]
            for reader in with_snapshots:
                assert rows_of(reader, customers()) == [("1 1 1",)]
            assert staged_tables(database) == []


def test_readers_who_join_the_customer_tables_in_any_order_see_one_version_and_no_deadlock(
    database: Database, files: Files
) -> None:
    write_customers(files, 1)
    load_customers(database)
    orders = list(itertools.permutations(CUSTOMER_TABLES))
    with reading(database, *(customers(*order) for order in orders[:4])) as answers:
        for version in range(2, 7):
            write_customers(files, version)
            load_customers(database)
    for found in answers:
        assert found <= {(f"{version} {version} {version}",) for version in range(1, 7)}
        assert ("6 6 6",) in found


def test_readers_see_the_old_customers_without_waiting_until_the_load_commits(database: Database, files: Files) -> None:
    write_customers(files, 1)
    load_customers(database)
    write_customers(files, 2)
    points = [
        "labels staged",
        "customer_profiles checked",
        "customer_profiles published",
        "customer_activity published",
        "labels published",
        *(f"{event} public.{table}" for table in CUSTOMER_TABLES for event in ("delete", "insert")),
        "before commit",
    ]
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        # One reader has read a table already and then wants the others, the other reads all three anew.
        holder = idle_reader(database, stack, "labels")
        reader = stack.enter_context(database.connect("ds_user"))
        for each in (holder, reader):
            each.execute("set lock_timeout = '1ms'")
        pauses = [stack.enter_context(pausing(database, point)) for point in points]
        load = pool.submit(load_customers, database)
        for pause in pauses:
            pause.wait(load)
            for each in (holder, reader):
                assert rows_of(each, customers()) == [("1 1 1",)]
            pause.release()
        all_results([load])
        for each in (holder, reader):
            assert rows_of(each, customers()) == [("2 2 2",)]


def test_customer_loads_and_rebuilds_of_the_feature_store_at_once_never_show_a_mixture(
    database: Database, files: Files
) -> None:
    write_customers(files, 1)
    load_customers(database)
    build_feature_store(database)
    # A profile's attr_a and an activity's scd_a come from the same version of the files, or the mixture shows.
    # Nor does feature_store ever differ from the rows of feature_history, or one of these have two rows for a client.
    seen = """
        select
            count(*), count(*) filter (where store.attr_a = store.scd_a), count(distinct store.attr_a),
            count(*) filter (where store = row(
                history.idx, history.attr_a, history.attr_b, history.scd_a, history.scd_b, history.label
            ))
        from feature_store as store
        full join (select * from feature_history where known_to is null) as history on store.idx = history.idx
    """
    with reading(database, seen) as (answers,), ThreadPoolExecutor(3) as pool:
        for version in range(2, 6):
            write_customers(files, version)
            running = [pool.submit(build_feature_store, database) for _ in range(2)]
            all_results([*running, pool.submit(load_customers, database)])
    assert answers == {(CLIENTS, CLIENTS, 1, CLIENTS)}
    build_feature_store(database)
    assert database.run("select distinct attr_a, scd_a from feature_store") == [(5, 5.0)]


def test_a_rebuild_waits_for_another_and_then_finds_nothing_to_write(database: Database, files: Files) -> None:
    write_customers(files, 1)
    load_customers(database)
    with pausing(database, "insert public.feature_store") as pause, ThreadPoolExecutor(2) as pool:
        first = pool.submit(build_feature_store, database)
        pid = pause.wait(first)
        second = pool.submit(build_feature_store, database)
        wait_until_blocked(database, pid, second)
        assert database.run("select count(*) from feature_store") == [(0,)]
        pause.release()
        all_results([first, second])
    assert database.run("select count(*), count(distinct xmin::text) from feature_store") == [(CLIENTS, 1)]


def test_a_rebuild_names_the_loads_whose_rows_it_has_read(database: Database, files: Files) -> None:
    write_customers(files, 1)
    load_customers(database)
    write_customers(files, 2)
    with pausing(database, "delete pipeline.rejected_builds") as pause, ThreadPoolExecutor(2) as pool:
        rebuild = pool.submit(build_feature_store, database)
        holder = pause.wait(rebuild)
        load = pool.submit(load_customers, database)
        wait_until_blocked(database, holder, load)
        pause.release()
        all_results([rebuild, load])
    [(version,)] = database.run("select distinct attr_a from feature_store")
    [(published,)] = database.run("""
        select status from pipeline.feature_store_builds inner join pipeline.loads on profiles_load = load_id
    """)
    assert (version, published) in [(1, "superseded"), (2, "published")]


# Migrations


@pytest.fixture
def migrate(database: Database, tmp_path: Path) -> Callable[..., None]:
    """Runs alembic with one revision more than the project has: a column of sales, which no file publishes yet."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "alembic", folder / "alembic")
    shutil.copy(ROOT / "alembic.ini", folder)
    (folder / "alembic/versions/9999_a_column_of_sales.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{head()}'\n"
        "def upgrade():\n"
        "    for table in ('public.sales', 'staging.sales'):\n"
        "        op.execute(f'alter table {table} add column note text')\n"
        "def downgrade():\n"
        "    for table in ('staging.sales', 'public.sales'):\n"
        "        op.execute(f'alter table {table} drop column note')\n"
    )
    environment = {**os.environ, "DATABASE_URL": database.url(driver="postgresql+psycopg2")}

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", "alembic", *(arguments or ["upgrade", "head"])]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
        )
        assert done.returncode == 0, done.stderr

    return run


def write_month_with_note(files: Files, version: int) -> None:
    """The file of the month as the migrated table needs it."""
    rows = [(n, version, FEBRUARY, 1, "new") for n in range(ROWS)]
    files.write(path_of(FEBRUARY), csv_text(f"{HEADER},note", rows))


def test_a_migration_waits_for_a_load_that_replaces_the_month(
    database: Database, files: Files, migrate: Callable[..., None]
) -> None:
    write_months(files, 1)
    load_month(database, FEBRUARY)
    write_months(files, 2)
    with pausing(database, "before commit") as pause, ThreadPoolExecutor(2) as pool:
        load = pool.submit(load_month, database, FEBRUARY)
        pid = pause.wait(load)
        migration = pool.submit(migrate)
        wait_until_blocked(database, pid, migration)
        pause.release()
        all_results([load, migration])
    assert months_of(database) == [(FEBRUARY, 2, ROWS)]
    write_month_with_note(files, 3)
    load_month(database, FEBRUARY)
    assert months_of(database) == [(FEBRUARY, 3, ROWS)]
    assert_tables_agree(database)


def test_a_load_that_a_migration_overtakes_is_rejected_and_works_when_it_is_cleared(
    database: Database, files: Files, migrate: Callable[..., None]
) -> None:
    write_months(files, 1)
    load_month(database, FEBRUARY)
    write_months(files, 2)
    run = Run(database, SALES, FEBRUARY)
    was_staged = r"staging\.sales has \(.*note text\) since"
    # While a file is copied, a migration of its staging table waits.
    for point, error in [
        ("sales requested", 'the header lacks "note"'),
        ("stores requested", was_staged),
        ("sales checked", was_staged),
        ("sales published", was_staged),
    ]:
        with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
            load = pool.submit(run.run)
            pause.wait(load)
            migrate()
            pause.release()
            with pytest.raises((FileRejected, psycopg.errors.CheckViolation), match=error):
                all_results([load])
        assert months_of(database) == [(FEBRUARY, 1, ROWS)]
        assert_tables_agree(database)
        migrate("downgrade", "-1")
    migrate()
    write_month_with_note(files, 3)
    run.run()
    assert months_of(database) == [(FEBRUARY, 3, ROWS)]
    assert_tables_agree(database)


# Keys of other tables


# The tables with a key that loads do not empty, so that a foreign key onto them is no trouble.
KEYED = {"stores": "idx", "feature_store": "idx"}
# The clause by which a row that is deleted for a moment takes others with it.
CASCADE = "on delete cascade"


def write_all(files: Files, stores: dict[int, str], clients: dict[int, int]) -> None:
    """Files with these stores, which all sold something, and with the attribute of each of these clients."""
    files.write("stores.csv", csv_text("idx,location", list(stores.items())))
    files.write(path_of(FEBRUARY), csv_text(HEADER, [(n, 5, FEBRUARY, n) for n in stores]))
    profiles = [(idx, value, "A", "x") for idx, value in clients.items()]
    files.write("customer_profiles.csv", csv_text("idx,attr_a,attr_b,attr_c", profiles))
    activity = [(idx, "2020-01-01", "", 1, 1) for idx in clients]
    files.write("customer_activity.csv", csv_text("idx,valid_from,valid_to,scd_a,scd_b", activity))
    files.write("labels.csv", csv_text("idx,label", [(idx, 0) for idx in clients]))


def load_all(database: Database) -> None:
    load_month(database, FEBRUARY)
    load_customers(database)
    build_feature_store(database)


def refer(mle: psycopg.Connection[Any], table: str, key: str, clause: str) -> None:
    """Make a table with a foreign key onto a table, and refer to every row."""
    mle.execute(f"create table notes_of_{table} as select {key} from {table}")
    mle.execute(
        f"alter table notes_of_{table}"
        f" add constraint key_of_{table} foreign key ({key}) references {table} ({key}) {clause}"
    )


def refer_to_all(database: Database, clause: str) -> None:
    """As mle_user, refer to every row of each keyed table."""
    with database.connect("mle_user") as mle:
        for table, key in KEYED.items():
            refer(mle, table, key, clause)


def versions_of_rows(database: Database, table: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Where each row is, and which transactions have written and locked it, by its key."""
    rows = database.run(f"select ({KEYED[table]})::text, ctid::text, xmin::text, xmax::text from {table}")
    return {row[0]: row[1:] for row in rows}


def referring(database: Database) -> dict[str, list[int | None]]:
    """The keys in the tables that refer."""
    return {
        table: [value for (value,) in database.run(f"select {key} from notes_of_{table} order by 1")]
        for table, key in KEYED.items()
    }


def test_a_load_touches_no_store_and_no_feature_that_did_not_change_and_other_tables_keep_the_rows_that_refer_to_it(
    database: Database, files: Files
) -> None:
    write_all(files, {1: "Porto", 2: "Faro", 3: "Braga"}, {1: 1, 2: 1, 3: 1})
    load_all(database)
    refer_to_all(database, CASCADE)
    before = {table: versions_of_rows(database, table) for table in KEYED}
    for _ in range(2):
        load_all(database)
        assert {table: versions_of_rows(database, table) for table in KEYED} == before

    # One store moves and one comes; one client changes and one comes.
    write_all(files, {1: "Porto", 2: "Lisboa", 3: "Braga", 4: "Braga"}, {1: 1, 2: 2, 3: 1, 4: 1})
    load_all(database)
    for table, rows in before.items():
        after = versions_of_rows(database, table)
        assert set(rows) < set(after)
        changed = [key for key in rows if rows[key] != after[key]]
        assert len(changed) == 1
        assert "2" in changed[0]
    assert referring(database) == {"stores": [1, 2, 3], "feature_store": [1, 2, 3]}


def test_a_store_that_the_newest_list_lacks_stays_with_the_rows_that_refer_to_it(
    database: Database, files: Files
) -> None:
    clients = {1: 1}
    write_all(files, {1: "Porto", 2: "Faro", 3: "Braga"}, clients)
    load_all(database)
    refer_to_all(database, CASCADE)
    before = versions_of_rows(database, "stores")
    write_all(files, {1: "Porto", 3: "Lisboa"}, clients)
    load_all(database)
    assert database.run("select idx, location from stores order by 1") == [(1, "Porto"), (2, "Faro"), (3, "Lisboa")]
    after = versions_of_rows(database, "stores")
    assert [str(key) for key, row in before.items() if row != after[key]] == ["3"]
    assert referring(database) == {"stores": [1, 2, 3], "feature_store": [1]}
    # The month itself is that of its newest file.
    assert database.run("select store_idx from monthly_sales order by 1") == [(1,), (3,)]
    assert_tables_agree(database)


def test_a_client_that_vanishes_while_another_table_refers_to_it_is_an_error_that_names_it(
    database: Database, files: Files
) -> None:
    write_all(files, {1: "Porto"}, {1: 1, 3: 1})
    load_all(database)
    refer_to_all(database, "")
    write_all(files, {1: "Porto"}, {1: 1})
    load_customers(database)
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as error:
        build_feature_store(database)
    for part in ('"feature_store" violates foreign key constraint "key_of_feature_store"', "notes_of_feature_store"):
        assert part in str(error.value)
    assert "Key (idx)=(3) is still referenced" in str(error.value)
    assert database.run("select idx from feature_store order by 1") == [(1,), (3,)]
    database.run("delete from notes_of_feature_store", "mle_user")
    build_feature_store(database)
    assert database.run("select idx from feature_store") == [(1,)]


@pytest.mark.parametrize(("clause", "kept"), [("on delete cascade", [1, 2]), ("on delete set null", [1, 2, None])])
def test_a_client_that_vanishes_changes_only_the_rows_that_refer_to_it(
    database: Database, files: Files, clause: str, kept: list[int | None]
) -> None:
    write_all(files, {1: "Porto", 2: "Faro", 3: "Braga"}, {1: 1, 2: 1, 3: 1})
    load_all(database)
    refer_to_all(database, clause)
    write_all(files, {1: "Porto", 2: "Lisboa"}, {1: 1, 2: 2})
    load_all(database)
    assert referring(database) == {"stores": [1, 2, 3], "feature_store": kept}


MONTHLY_KEY = "sale_month, store_idx"


def test_a_foreign_key_onto_monthly_sales_stops_a_load_before_it_changes_anything(
    database: Database, files: Files
) -> None:
    write_months(files, 1)
    load_month(database, FEBRUARY)
    with database.connect("mle_user") as mle:
        refer(mle, "monthly_sales", MONTHLY_KEY, CASCADE)
    notes = "select sale_month, store_idx from notes_of_monthly_sales order by 1, 2"
    tables = [f"select *, ctid, xmin::text, xmax::text from {table}" for table in ("sales", "stores", "monthly_sales")]
    before = [database.run(query) for query in [notes, *tables]]
    assert len(before[0]) == 2
    write_everything(files, 2)
    run = Run(database, SALES, FEBRUARY)
    with pytest.raises(
        psycopg.errors.CheckViolation,
        match=r"monthly_sales of 2024-02-01: the foreign key key_of_monthly_sales of (public.)?notes_of_monthly_sales",
    ):
        run.run()
    assert [database.run(query) for query in [notes, *tables]] == before
    # A month without rows loses none.
    load_month(database, MARCH)
    assert months_of(database) == [(FEBRUARY, 1, ROWS), (MARCH, 2, ROWS)]
    assert database.run(notes) == before[0]
    with database.connect("mle_user") as mle:
        mle.execute("alter table notes_of_monthly_sales drop constraint key_of_monthly_sales")
        mle.execute("alter table notes_of_monthly_sales add foreign key (store_idx) references stores (idx)")
    run.run("publish_month")
    assert months_of(database) == [(FEBRUARY, 2, ROWS), (MARCH, 2, ROWS)]
    assert database.run(notes) == before[0]


def test_a_foreign_key_onto_monthly_sales_that_comes_while_the_month_is_loaded_loses_no_row(
    database: Database, files: Files
) -> None:
    write_months(files, 1)
    load_month(database, FEBRUARY)
    write_months(files, 2)
    notes = "select sale_month, store_idx from notes_of_monthly_sales order by 1, 2"
    with database.connect("mle_user") as mle, ThreadPoolExecutor(1) as pool:
        mle.execute("set lock_timeout = '1ms'")
        with pausing(database, "insert public.sales") as pause:
            load = pool.submit(load_month, database, FEBRUARY)
            pause.wait(load)
            with pytest.raises(psycopg.errors.LockNotAvailable):
                refer(mle, "monthly_sales", MONTHLY_KEY, CASCADE)
            pause.release()
            all_results([load])
    assert len(database.run(notes)) == 2
    assert months_of(database) == [(FEBRUARY, 2, ROWS)]


def test_a_transaction_that_refers_to_rows_and_a_load_that_changes_them_do_not_wait_for_each_other(
    database: Database, files: Files
) -> None:
    write_all(files, {1: "Porto", 2: "Faro"}, {1: 1, 2: 1})
    load_all(database)
    refer_to_all(database, CASCADE)
    copies = [f"insert into notes_of_{table} select {key} from {table}" for table, key in KEYED.items()]
    with database.connect("mle_user") as mle:
        with mle.transaction():
            for copy in copies:
                mle.execute(copy)
            write_all(files, {1: "Lisboa", 2: "Faro"}, {1: 2, 2: 1})
            load_all(database)
        write_all(files, {1: "Braga", 2: "Faro"}, {1: 3, 2: 1})
        mle.execute(f"set lock_timeout = '{WAIT_SECONDS}s'")
        for point, load in [("insert public.monthly_sales", load_month), ("insert public.feature_store", None)]:
            if load is None:
                load_customers(database)
            with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
                running = pool.submit(load, database, FEBRUARY) if load else pool.submit(build_feature_store, database)
                pause.wait(running)
                for copy in copies:
                    mle.execute(copy)
                pause.release()
                all_results([running])
    assert {table: len(keys) for table, keys in referring(database).items()} == {"stores": 8, "feature_store": 8}
    assert database.run("select location from stores order by idx") == [("Braga",), ("Faro",)]
    assert database.run("select attr_a from feature_store order by idx") == [(3,), (1,)]
