"""Runs side by side: one month twice, several months, and readers all the while."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from conftest import Database
from test_sql_steps import run_file, run_on

ROWS = 2_000


def stage(database: Database, month: str) -> None:
    run_on(database, "sales/prepare_month.sql", sale_month=month)
    database.run(f"insert into staging.sales select n, 1, '{month}', 1, '{month}' from generate_series(1, {ROWS}) n")
    database.run(f"insert into staging.stores values (1, 'Porto', '{month}')")


def load(database: Database, month: str) -> None:
    with database.connect() as connection:
        run_file(connection, "sales/prepare_month.sql", sale_month=month)
        run_file(connection, "sales/publish_stores.sql", sale_month=month, staged_rows=1)
        run_file(connection, "sales/replace_month_of_sales.sql", sale_month=month, staged_rows=ROWS)
        run_file(connection, "sales/replace_month_of_monthly_sales.sql", sale_month=month)


def test_one_month_many_times_at_once_and_several_months_beside_it_end_right(database: Database) -> None:
    months = ["2023-12-01", "2024-01-01", "2024-02-01"]
    for month in months:
        stage(database, month)
        load(database, month)

    wrong: list[object] = []
    finished = threading.Event()

    def read() -> None:
        with database.connect("ds_user") as connection:
            while not finished.is_set():
                seen = connection.execute("""
                    select (select count(*) from sales where date = '2024-02-01'), (select count(*) from stores),
                           (select sum(value) from monthly_sales where sale_month = '2024-02-01')
                """).fetchone()
                if seen != (ROWS, 1, ROWS):
                    wrong.append(seen)

    with ThreadPoolExecutor(9) as pool:
        reader = pool.submit(read)
        loads = [pool.submit(load, database, month) for month in [*months, "2024-02-01"] * 5]
        for done in loads:
            done.result(timeout=60)
        finished.set()
        reader.result(timeout=60)
    assert wrong == []
    assert database.run("select date::text, count(*) from sales group by date order by date") == [
        (month, ROWS) for month in months
    ]
    assert database.run("select sale_month::text, value from monthly_sales order by 1") == [
        (month, ROWS) for month in months
    ]


def test_a_month_waits_for_the_same_month_and_not_for_another(database: Database) -> None:
    for month in ("2024-01-01", "2024-02-01"):
        stage(database, month)
    with database.connect() as slow, ThreadPoolExecutor(1) as pool:
        with slow.transaction():
            slow.execute("select pipeline.lock_month('2024-02-01')")
            slow.execute("insert into sales select n, 1, '2024-02-01', 1 from generate_series(1, 5) n")
            load(database, "2024-01-01")
            stage(database, "2024-03-01")
            same = pool.submit(load, database, "2024-02-01")
            time.sleep(0.5)
            assert not same.done()
        same.result(timeout=30)
    assert database.run("select date::text, count(*) from sales group by date order by date") == [
        ("2024-01-01", ROWS),
        ("2024-02-01", ROWS),
    ]


def test_a_waiting_month_gives_up_after_lock_timeout(database: Database) -> None:
    stage(database, "2024-02-01")
    with database.connect() as holder, holder.transaction(), database.connect() as waiting:
        holder.execute("select pipeline.lock_month('2024-02-01')")
        waiting.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run_file(waiting, "sales/replace_month_of_sales.sql", sale_month="2024-02-01", staged_rows=ROWS)


def test_readers_never_see_the_feature_store_empty_while_two_rebuilds_run(database: Database) -> None:
    database.run("insert into customer_profiles select n, n, 'A', 'x' from generate_series(1, 500) n")
    database.run("insert into customer_activity select n, '2020-01-01', null, 1, 1 from generate_series(1, 500) n")
    database.run("insert into labels select n, 0 from generate_series(1, 500) n")
    run_on(database, "feature_store/replace_feature_store.sql")
    counts: set[object] = set()
    finished = threading.Event()

    def read() -> None:
        with database.connect("ds_user") as connection:
            while not finished.is_set():
                counts.add(connection.execute("select count(*) from feature_store").fetchone())

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        rebuilds = [pool.submit(run_on, database, "feature_store/replace_feature_store.sql") for _ in range(10)]
        for done in rebuilds:
            done.result(timeout=60)
        finished.set()
        reader.result(timeout=60)
    assert counts == {(500,)}
