"""docs/file_rules.md is what the system does: its examples are loaded, and its limits are those of the comparisons."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import product
from typing import Any

import psycopg
import pytest
from conftest import ROOT, Database, Files, copied
from support.bucket_files import write_customers, write_month
from support.steps import CUSTOMERS, SALES, Run, comparison

from company_data.errors import FileRejected

PAGE = (ROOT / "docs/file_rules.md").read_text()
EXAMPLES = re.findall(r"^\| `(\w+)\.csv` \| `(.+?)` \| (loaded|rejected) \|", PAGE, re.M)
LIMITS = re.findall(r"^\| (month|customers) \| (.+?) \| .+? \| (.+?) \| (.+?) \|$", PAGE, re.M)
MONTH = date(2024, 2, 1)
MILLION = 1_000_000
STORES = 10


@pytest.fixture(scope="module")
def shared(template: Database) -> Iterator[Database]:
    with copied(template, "test_file_rules") as database, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        yield database


@pytest.mark.parametrize(("table", "example", "answer"), EXAMPLES)
def test_an_example_is_answered_as_the_page_says(
    shared: Database, files: Files, table: str, example: str, answer: str
) -> None:
    write_month(files, "2024-02")
    write_customers(files)
    path = f"sales/{MONTH}/sales.csv" if table == "sales" else f"{table}.csv"
    files.write(path, example.replace("⏎", "\n") + "\n")
    run = Run(shared, SALES, str(MONTH)) if table in ("sales", "stores") else Run(shared, CUSTOMERS)
    try:
        run.run(*run.tasks[: next(n for n, task in enumerate(run.tasks, 1) if task.startswith("check_"))])
        found = "loaded"
    except (FileRejected, psycopg.errors.CheckViolation):
        found = "rejected"
    assert found == answer


def record(
    connection: psycopg.Connection[Any],
    table: str,
    month: date | None,
    status: str,
    figures: dict[str, dict[str, Any]],
    requested: date = MONTH,
    stores: int = STORES,
) -> int:
    """Record a load of a million rows with these figures of its columns, and stores of equal size."""
    [(file,)] = connection.execute(
        "insert into pipeline.files (table_name, file_month) values (%s, %s)"
        " on conflict (table_name, file_month) do update set table_name = excluded.table_name returning file_id",
        [table, month],
    ).fetchall()
    last = (month + timedelta(days=31)).replace(day=1) - timedelta(days=1) if month else requested
    [(load,)] = connection.execute(
        "insert into pipeline.loads (file_id, dag_id, run_id, source_url, staged_table, status, row_count, max_date,"
        " total, requested_at, request_number) values (%s, 'test', 'test', '', %s, %s, %s, %s, %s, %s,"
        " nextval('pipeline.request_numbers')) returning load_id",
        [file, f"staging.{table}", status, MILLION, last, MILLION if month else None, requested],
    ).fetchall()
    connection.execute(
        "insert into pipeline.group_totals (load_id, group_key, row_count, min_key, total)"
        " select %s, store, %s, 0, %s from generate_series(1, %s) as store where %s",
        [load, MILLION // stores + load % 2, MILLION // stores, stores, month is not None],
    )
    for column, given in figures.items():
        known = {"load_id": load, "column_name": column, "sample_rows": MILLION, "missing_values": 0} | given
        names, values = ", ".join(known), ", ".join(["%s"] * len(known))
        connection.execute(f"insert into pipeline.column_profiles ({names}) values ({values})", list(known.values()))
    return int(load)


def compare(connection: psycopg.Connection[Any], name: str, parameters: dict[str, Any]) -> None:
    """Run a comparison on the figures that record has written."""
    for statement in comparison(name):
        connection.execute(statement.encode(), parameters)


def found_limits(connection: psycopg.Connection[Any], load: int) -> dict[str, tuple[float, float, float]]:
    """Median, low and high of each measure that is compared."""
    checks = "select measure, coalesce(median, 0), low, high from pipeline.anomaly_checks where low is not null"
    rows = connection.execute(f"{checks} and load_id = %s".encode(), [load]).fetchall()
    return {measure: (float(median), float(low), float(high)) for measure, median, low, high in rows}


def limit(text: str, median: float, stores: int) -> float:
    """A limit as the page writes it."""
    match text.split():
        case ["\N{MULTIPLICATION SIGN}", factor]:
            return median * float(factor)
        case ["\N{MINUS SIGN}", less]:
            return median - float(less)
        case ["+", more]:
            return median + float(more)
        case ["no", "limit"]:
            return 0  # shares and numbers of days have none below
        case [least, "+", "a", "fifth", "of", "the", "known", "stores"]:
            return float(least) + stores / 5
    return float(text)


def require_documented(file: str, found: dict[str, tuple[float, float, float]], stores: int = STORES) -> None:
    """Each measure is in the page, with its limits, and each of the page was measured."""
    documented = {
        re.sub("(`column`|`value`|`idx`)", r"\\S+", re.escape(name).replace(r"\`", "`").replace("\\ ", " ")): limits
        for of, names, *limits in LIMITS
        if of == file
        for name in names.split("; ")
    }
    for measure, (median, low, high) in found.items():
        [(lowest, highest)] = [limits for name, limits in documented.items() if re.fullmatch(name, measure)]
        expected = (limit(lowest, median, stores), limit(highest, median, stores))
        if measure.startswith("share"):
            expected = (max(expected[0], 0), expected[1])
        assert (low, high) == pytest.approx(expected, abs=1e-6), measure
    assert [name for name in documented if not any(re.fullmatch(name, measure) for measure in found)] == []


@pytest.mark.parametrize("stores", [STORES, 50])
def test_the_limits_of_a_month_are_those_of_the_page(database: Database, stores: int) -> None:
    figures = {
        "idx": {"distinct_values": MILLION, "smallest": 1, "largest": MILLION},
        "value": {"distinct_values": 5, "negative_values": MILLION // 10},
        "date": {"distinct_values": 28, "longest_gap": 0},
        "carrier": {"distinct_values": 2, "missing_values": 0},
    }
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("alter table staging.sales add column carrier text")
        for year, month in product((2022, 2023), range(1, 13)):
            load = record(connection, "sales", date(year, month, 1), "published", figures, stores=stores)
            compare(connection, "compare_month", {"load": load})
            connection.execute("drop table months")
        record(connection, "sales", MONTH, "published", figures, stores=stores)
        load = record(connection, "sales", MONTH, "checked", figures, stores=stores)
        compare(connection, "compare_month", {"load": load})
        found = found_limits(connection, load)
    require_documented(
        "month", found | {"months with the same rows": found.get("months with the same rows", (0, 0, 0))}, stores
    )


def test_the_limits_of_the_customer_files_are_those_of_the_page(database: Database, files: Files) -> None:
    days = (date(2024, 1, 1) - date(2000, 1, 1)).days
    quartiles = {"lower_quartile": 0, "median": 5, "upper_quartile": 10}
    figures: dict[str, dict[str, Any]] = {
        "idx": {"distinct_values": MILLION},
        "valid_from": {"distinct_values": 3, "first_day": date(2024, 1, 1), **dict.fromkeys(quartiles, days)},
        "scd_a": {"distinct_values": MILLION, **quartiles},
        "scd_b": {"distinct_values": 2, "counts": '{"1": 500000}'},
    }
    with database.connect() as connection, connection.transaction(force_rollback=True):
        published = record(connection, "customer_activity", None, "published", figures)
        load = record(connection, "customer_activity", None, "checked", figures, MONTH + timedelta(days=7))
        for each in (published, load):
            compare(connection, "compare_snapshot", {"loads": [each]})
            connection.execute("drop table mine")
        found = found_limits(connection, load)
    # What check_customers measures needs rows: as many clients as are compared with chance below the limits.
    clients = range(1, 12_001)
    profiles, activity = (f"{idx},1,A,x" for idx in clients), (f"{idx},2020-01-01,,1,1" for idx in clients)
    write_customers(files, profiles, activity, (f"{idx},{idx % 2}" for idx in clients))
    Run(database, CUSTOMERS).run()
    run = Run(database, CUSTOMERS)
    run.run(*run.tasks[: run.tasks.index("compare_customers") + 1])
    with database.connect() as connection:
        of_profiles = found_limits(connection, run.loads["stage_customer_profiles"])
    covered = {name: limits for name, limits in of_profiles.items() if "profiles" in name or "clients" in name}
    require_documented("customers", {name: each for name, each in found.items() if "quartile" not in name} | covered)


def test_a_store_is_unusual_from_the_documented_limits_on(database: Database) -> None:
    figures = {"date": {"distinct_values": 28, "longest_gap": 0}}
    with database.connect() as connection, connection.transaction(force_rollback=True):
        for month in range(1, 13):
            record(connection, "sales", date(2023, month, 1), "published", figures)
        for what, portion, mean, is_unusual in (
            *(("share of rows", each, 1, each in (0.24, 4.1)) for each in (0.26, 0.24, 3.9, 4.1)),
            *(("mean amount", 1, each, each in (0.32, 3.1)) for each in (0.34, 0.32, 2.9, 3.1)),
        ):
            load = record(connection, "sales", MONTH, "checked", figures)
            # Store 3 changes, and the others make up for it.
            rows = round(100_000 * portion)
            others = (MILLION - rows) // 9
            changed = "update pipeline.group_totals set row_count = %s, total = %s where load_id = %s and group_key"
            connection.execute(f"{changed} = 3".encode(), [rows, rows * mean, load])
            connection.execute(f"{changed} <> 3".encode(), [others, others, load])
            compare(connection, "compare_month", {"load": load})
            connection.execute("drop table months")
            [(anomaly,)] = connection.execute(
                "select anomaly from pipeline.anomaly_checks where load_id = %s and measure like %s",
                [load, f"stores with another {what}"],
            ).fetchall()
            is_found = anomaly is not None and anomaly.startswith("store_idx 3 (")
            assert is_found == is_unusual, (what, portion, mean)
