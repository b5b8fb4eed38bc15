"""Each file under sql/: given rows, the file as the DAG runs it, expected rows."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from conftest import ROOT, Database, Rows

SQL = ROOT / "sql"
FEBRUARY = "2024-02-01"


def run_file(connection: psycopg.Connection[Any], file: str, **parameters: object) -> list[str]:
    """Run a SQL file in one transaction, statement by statement, and return what it reported."""
    reports: list[str] = []
    connection.add_notice_handler(lambda notice: reports.append(str(notice.message_primary)))
    with connection.transaction():
        for statement in DbApiHook.split_sql_string((SQL / file).read_text()):
            connection.execute(statement, parameters)
    return reports


def run_on(database: Database, file: str, **parameters: object) -> list[str]:
    with database.connect() as connection:
        return run_file(connection, file, **parameters)


def test_every_sql_file_is_run_by_a_test_of_this_file_and_by_a_dag() -> None:
    dags = "".join(file.read_text() for file in (ROOT / "dags").glob("*.py"))
    tests = Path(__file__).read_text()
    for file in SQL.rglob("*.sql"):
        name = str(file.relative_to(SQL))
        assert f'sql="{name}"' in dags
        assert f'"{name}"' in tests


def test_prepare_month_makes_each_partition_once(database: Database) -> None:
    for month in ("2023-12-01", FEBRUARY, FEBRUARY):
        run_on(database, "sales/prepare_month.sql", sale_month=month)
    assert database.run("""
        select inhrelid::regclass::text, pg_get_expr(relpartbound, oid)
        from pg_inherits join pg_class on oid = inhrelid order by 1
    """) == [
        ("partitions.sales_2023_12", "FOR VALUES FROM ('2023-12-01') TO ('2024-01-01')"),
        ("partitions.sales_2024_02", "FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')"),
        ("staging.sales_2023_12", "FOR VALUES IN ('2023-12-01')"),
        ("staging.sales_2024_02", "FOR VALUES IN ('2024-02-01')"),
        ("staging.stores_2023_12", "FOR VALUES IN ('2023-12-01')"),
        ("staging.stores_2024_02", "FOR VALUES IN ('2024-02-01')"),
    ]
    with pytest.raises(psycopg.errors.RaiseException, match="2024-02-02 is not the first day of a month"):
        run_on(database, "sales/prepare_month.sql", sale_month="2024-02-02")


def given_february(database: Database) -> None:
    for month in ("2024-01-01", FEBRUARY, "2024-03-01"):
        run_on(database, "sales/prepare_month.sql", sale_month=month)
    database.run("insert into sales values (1, 5, '2024-01-31', 1), (2, 6, '2024-02-10', 1), (3, 7, '2024-03-01', 2)")
    database.run("insert into staging.sales values (8, 0.1, '2024-02-01', 1, '2024-02-01')")
    database.run("insert into staging.sales values (9, 0.2, '2024-02-29', 1, '2024-02-01')")
    database.run("insert into staging.sales values (7, 70, '2024-03-05', 2, '2024-03-01')")
    database.run("insert into staging.stores values (1, 'Porto', '2024-02-01'), (2, 'Faro', '2024-02-01')")
    database.run("insert into stores values (1, 'Old'), (3, 'Gone')")


@pytest.mark.parametrize("times", [1, 2])
def test_replace_month_of_sales_replaces_that_month_alone(database: Database, times: int) -> None:
    given_february(database)
    for _ in range(times):
        run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, staged_rows=2)
    assert rows_of_sales(database) == [
        (1, "5", "2024-01-31", 1),
        (8, "0.1", "2024-02-01", 1),
        (9, "0.2", "2024-02-29", 1),
        (3, "7", "2024-03-01", 2),
    ]


def rows_of_sales(database: Database) -> Rows:
    return database.run("select idx, value::text, date::text, store_idx from sales order by date")


def test_replace_month_of_sales_refuses_staging_that_has_lost_its_rows(database: Database) -> None:
    given_february(database)
    before = rows_of_sales(database)
    database.run("truncate staging.sales_2024_02")
    with pytest.raises(psycopg.errors.CheckViolation, match=r"the file had 2 rows, but staging\.sales holds 0"):
        run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, staged_rows=2)
    assert rows_of_sales(database) == before


@pytest.mark.parametrize("times", [1, 2])
def test_publish_stores_replaces_all_stores(database: Database, times: int) -> None:
    given_february(database)
    for _ in range(times):
        run_on(database, "sales/publish_stores.sql", sale_month=FEBRUARY, staged_rows=2)
    assert database.run("select * from stores order by idx") == [(1, "Porto"), (2, "Faro")]
    with pytest.raises(psycopg.errors.CheckViolation, match="the file had 3 rows"):
        run_on(database, "sales/publish_stores.sql", sale_month=FEBRUARY, staged_rows=3)
    assert database.run("select count(*) from stores") == [(2,)]


@pytest.mark.parametrize("times", [1, 2])
def test_replace_month_of_monthly_sales_sums_exactly_and_skips_stores_without_sales(
    database: Database, times: int
) -> None:
    given_february(database)
    database.run("insert into sales values (4, 0.1, '2024-02-01', 3), (5, 0.2, '2024-02-29', 3)")
    database.run("insert into monthly_sales values (9, 'Other', '2024-01-01', 1), (9, 'Stale', '2024-02-01', 1)")
    for _ in range(times):
        reports = run_on(database, "sales/replace_month_of_monthly_sales.sql", sale_month=FEBRUARY)
    assert database.run(
        "select store_idx, location, sale_month::text, value::text from monthly_sales order by 3, 1"
    ) == [
        (9, "Other", "2024-01-01", "1"),
        (1, "Old", "2024-02-01", "6"),
        (3, "Gone", "2024-02-01", "0.3"),
    ]
    assert reports == ["monthly_sales of 2024-02-01: 2 stores, total 6.3"]


def test_replace_month_of_monthly_sales_fails_rather_than_drop_a_sale(database: Database) -> None:
    given_february(database)
    database.run("delete from stores")
    with pytest.raises(psycopg.errors.NotNullViolation, match="location"):
        run_on(database, "sales/replace_month_of_monthly_sales.sql", sale_month=FEBRUARY)


def test_check_sales_passes_good_rows_and_counts_bad_ones(database: Database) -> None:
    given_february(database)
    run_on(database, "sales/check_sales.sql", sale_month=FEBRUARY)
    database.run("insert into staging.sales values (1, 1, '2024-02-01', 77, '2024-02-01')")
    with pytest.raises(psycopg.errors.CheckViolation, match=r"1 rows are of 1 stores that stores\.csv lacks"):
        run_on(database, "sales/check_sales.sql", sale_month=FEBRUARY)
    database.run("insert into staging.sales values (1, 1, '2024-01-31', 1, '2024-02-01')")
    database.run("insert into staging.sales values (1, 1, '2024-03-01', 1, '2024-02-01')")
    with pytest.raises(
        psycopg.errors.CheckViolation, match=r"2 rows are dated outside .* \(2024-01-31 to 2024-03-01\)"
    ):
        run_on(database, "sales/check_sales.sql", sale_month=FEBRUARY)


def given_customers(database: Database) -> None:
    database.run("insert into staging.customer_profiles values (1, 10, 'A', ''), (1, 10, 'A', ''), (2, 20, 'B', null)")
    database.run("insert into staging.customer_activity values (1, '2020-01-01', null, 0.1, 1)")
    database.run("insert into staging.labels values (1, 0), (2, 1)")
    database.run("insert into customer_profiles values (9, 9, 'Z', 'z')")


@pytest.mark.parametrize("times", [1, 2])
def test_publish_customer_data_replaces_all_three_tables_row_by_row(database: Database, times: int) -> None:
    given_customers(database)
    for _ in range(times):
        run_on(database, "customer/publish_customer_data.sql", staged_profiles=3, staged_activity=1, staged_labels=2)
    assert database.run("select * from customer_profiles order by idx") == [
        (1, 10, "A", ""),
        (1, 10, "A", ""),
        (2, 20, "B", None),
    ]
    assert database.run("select idx, valid_from::text, valid_to, scd_a, scd_b from customer_activity") == [
        (1, "2020-01-01", None, 0.1, 1)
    ]
    assert database.run("select * from labels order by idx") == [(1, 0), (2, 1)]


def test_publish_customer_data_refuses_staging_that_has_lost_its_rows(database: Database) -> None:
    given_customers(database)
    database.run("truncate staging.labels")
    with pytest.raises(psycopg.errors.CheckViolation, match=r"labels\.csv: the file had 2 rows, but staging holds 0"):
        run_on(database, "customer/publish_customer_data.sql", staged_profiles=3, staged_activity=1, staged_labels=2)
    assert database.run("select * from customer_profiles") == [(9, 9, "Z", "z")]


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        ("insert into staging.customer_profiles values (2, 20, 'B', 'c')", "1 clients have two different profiles"),
        ("insert into staging.labels values (2, 0)", "1 clients have both labels"),
        ("insert into staging.labels values (3, 2)", "1 rows have a label other than 0 and 1"),
    ],
)
def test_check_customer_data_refuses_contradictions(database: Database, bad_row: str, reason: str) -> None:
    given_customers(database)
    run_on(database, "customer/check_customer_data.sql")
    database.run(bad_row)
    with pytest.raises(psycopg.errors.CheckViolation, match=reason):
        run_on(database, "customer/check_customer_data.sql")


@pytest.mark.parametrize("times", [1, 2])
def test_replace_feature_store_takes_the_latest_activity_of_each_complete_client(
    database: Database, times: int
) -> None:
    database.run(
        "insert into customer_profiles values " + ", ".join(f"({c}, {c}0, 'A', 'x')" for c in (1, 2, 3, 4, 5, 5))
    )
    database.run("insert into labels values (1, 0), (2, 1), (3, 0), (5, 1), (6, 1)")
    database.run("""
        insert into customer_activity values
            (1, '2020-01-01', null, 1.5, 11),          -- current, though another ends later and begins later
            (1, '2021-01-01', '2022-01-01', 9.9, 99),
            (2, '2020-01-01', '2020-06-01', 9.9, 99),  -- none is current: the greatest valid_to
            (2, '2019-01-01', '2020-12-01', 2.5, 22),
            (3, '2020-01-01', null, 9.9, 99),          -- two are current: the latest valid_from
            (3, '2020-02-01', null, 3.5, 33),
            (4, '2020-01-01', null, 9.9, 99),          -- client 4 has no label
            (6, '2020-01-01', null, 9.9, 99)           -- client 6 has no profile, client 5 no activity
    """)
    database.run("insert into feature_store values (77, 0, 'Z', 0, 0, 0)")
    for _ in range(times):
        reports = run_on(database, "feature_store/replace_feature_store.sql")
    assert database.run("select * from feature_store order by idx") == [
        (1, 10, "A", 1.5, 11, 0),
        (2, 20, "A", 2.5, 22, 1),
        (3, 30, "A", 3.5, 33, 0),
    ]
    assert reports == [
        "feature_store: 3 of 6 clients; left out: 1 without a profile, 1 without an activity, 1 without a label"
        " (a client may lack more than one)"
    ]
