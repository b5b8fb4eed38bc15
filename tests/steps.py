"""The steps of the workflows without Airflow: the same Python and SQL that its tasks run, in the same order."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import psycopg
from airflow.providers.common.sql.hooks.sql import DbApiHook
from conftest import ROOT, Database

from company_data.ledger import Load
from company_data.settings import CONNECTION_OPTIONS, source_base_url
from company_data.staging import prepare, stage

SQL = ROOT / "sql"
CUSTOMER_FILES = {"profiles_load": "customer_profiles", "activity_load": "customer_activity", "labels_load": "labels"}

PUBLISH_SALES = ("sales/publish_stores.sql", "sales/replace_month_of_sales.sql")

# Their tasks commit each statement by itself.
COMMITS_EACH_STATEMENT = ("sales/check_sales.sql", "customer/check_customer_data.sql")


def connect(database: Database) -> psycopg.Connection[Any]:
    """A connection as the tasks open it."""
    return psycopg.connect(database.url("pipeline"), autocommit=True, options=CONNECTION_OPTIONS)


def run_files(connection: psycopg.Connection[Any], *files: str, **parameters: object) -> list[str]:
    """Run SQL files statement by statement in one transaction, and return what they reported."""
    reports: list[str] = []
    connection.add_notice_handler(lambda notice: reports.append(str(notice.message_primary)))
    with nullcontext() if files[0] in COMMITS_EACH_STATEMENT else connection.transaction():
        for file in files:
            for statement in DbApiHook.split_sql_string((SQL / file).read_text()):
                connection.execute(statement, parameters)
    return reports


def run_on(database: Database, *files: str, **parameters: object) -> list[str]:
    with connect(database) as connection:
        return run_files(connection, *files, **parameters)


def stage_file(database: Database, path: str, table: str, month: str | None = None) -> int:
    load = Load(table, month, f"{source_base_url()}/{path}", "test")
    with connect(database) as connection:
        prepare(connection, load)
        with connection.transaction():
            return stage(connection, load, path, None)


def load_month(database: Database, month: str) -> list[str]:
    """All steps of sales_load_and_aggregation for the month that begins on this day; returns the aggregate's report."""
    loads: dict[str, object] = {
        "sale_month": month,
        "sales_load": stage_file(database, f"sales/{month}/sales.csv", "sales", month),
        "stores_load": stage_file(database, "stores.csv", "stores", month),
    }
    run_on(database, "sales/check_sales.sql", **loads)
    run_on(database, *PUBLISH_SALES, **loads)
    return run_on(database, "sales/replace_month_of_monthly_sales.sql", sale_month=month)


def load_customers(database: Database) -> None:
    """All steps of customer_data_load."""
    loads = {name: stage_file(database, f"{table}.csv", table) for name, table in CUSTOMER_FILES.items()}
    for step in ("check_customer_data", "publish_customer_data"):
        run_on(database, f"customer/{step}.sql", **loads)
    run_on(database, "customer/empty_staging.sql")


def build_feature_store(database: Database) -> list[str]:
    """The step of feature_store; returns its reports."""
    return run_on(database, "feature_store/replace_feature_store.sql")


def csv_text(header: str, rows: Sequence[Sequence[object]]) -> str:
    """A CSV file of plain values."""
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"
