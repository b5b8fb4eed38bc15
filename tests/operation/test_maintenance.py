"""What accumulates is removed, the ledger is kept, changed rows are noticed, and old months can be taken out."""

import os
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from conftest import ROOT, Database, Files, Rows
from psycopg.errors import CheckViolation, InsufficientPrivilege
from support.bucket_files import write_customers, write_month
from support.readers import reading
from support.steps import MAINTENANCE, SALES, SQL, Run, connect, dag, load_customers, load_month

from company_data import log_files
from embedded.sample_data import months_before
from services.airflow_db_clean import clean_command
from services.status import print_status, read_status

pytestmark = pytest.mark.slow

MONTHS_SHOWN = "select file_month::text, status, row_count from month_status"


@pytest.fixture
def months(database: Database, files: Files) -> Files:
    """January and February 2024 are loaded."""
    for month in ("2024-01", "2024-02"):
        write_month(files, month, f"1,1.50,{month}-01,1", f"2,2,{month}-09,1")
        load_month(database, f"{month}-01")
    return files


@pytest.fixture
def tables(database: Database, months: Files) -> None:
    """All tables are loaded."""
    write_customers(months, labels=["1,0", "2,1"])
    load_customers(database)


def sales(database: Database) -> Rows:
    return database.run("select date::text, value from sales order by date", user="ds_user")


def take_out(database: Database) -> None:
    """January, by the command of the page."""
    page = (ROOT / "docs/operations.md").read_text()
    [written] = re.findall(r"## Take an old month out\n.*?```sh\n(.*?)```", page, re.S)
    text = written.replace("postgresql://admin:admin@localhost:5432/companydata", database.url())
    database.client("bash", "-ec", text)


def test_a_month_is_taken_out_beside_readers_and_comes_back_when_it_is_loaded(
    database: Database, months: Files
) -> None:
    sums = database.run("select * from monthly_sales order by sale_month")
    with reading(database, "select count(*), sum(value) from sales") as (seen,):
        take_out(database)
    assert seen == {(4, 7), (2, Decimal("3.50"))}

    assert [day for day, _ in sales(database)] == ["2024-02-01", "2024-02-09"]
    assert database.run("select * from monthly_sales order by sale_month") == sums
    assert database.run(MONTHS_SHOWN, user="ds_user") == [("2024-01-01", "retired", None), ("2024-02-01", "loaded", 2)]
    shown = "select row_count from data_freshness where table_name in ('sales', 'monthly_sales')"
    assert database.run(shown, user="ds_user") == [(2,), (2,)]
    status = read_status(database.url("ds_user"), [])
    assert list(status.month_states.values()) == ["retired", "loaded"]

    # Nothing expects its rows; its sums and the other months are compared as before.
    Run(database, MAINTENANCE).run("compare_tables", "analyze_months")
    assert database.run("select file_month::text, compared_at is null, difference from pipeline.files order by 1") == [
        ("2024-01-01", True, None),
        ("2024-02-01", False, None),
        (None, False, None),
    ]

    # A failed attempt changes nothing, and a good one brings the month back.
    write_month(months, "2024-01", "1,1,2024-01-01,9")
    with pytest.raises(CheckViolation):
        load_month(database, "2024-01-01")
    assert database.run(MONTHS_SHOWN)[0] == ("2024-01-01", "rejected", None)
    assert len(sales(database)) == 2
    write_month(months, "2024-01", "1,1.50,2024-01-01,1", "2,2,2024-01-09,1", "3,7,2024-01-31,1")
    load_month(database, "2024-01-01")
    assert database.run(MONTHS_SHOWN)[0] == ("2024-01-01", "loaded", 3)
    assert len(sales(database)) == 5
    assert database.run("select count(*) from pipeline.loads where status = 'retired'") == [(0,)]


def test_a_month_whose_rows_stand_is_not_retired_and_only_a_month_is(database: Database, months: Files) -> None:
    with pytest.raises(CheckViolation, match=r"public\.sales still has the rows of 2024-01-01"):
        database.run("select pipeline.retire_load(1)")
    for other in (2, 0):  # the load of its stores, and none
        with pytest.raises(CheckViolation, match=f"Load {other} is not the published load of a month"):
            database.run(f"select pipeline.retire_load({other})")
    assert database.run(MONTHS_SHOWN)[0] == ("2024-01-01", "loaded", 2)


def test_a_month_of_which_only_the_partition_was_detached_says_what_to_do(database: Database, months: Files) -> None:
    database.run("alter table sales detach partition partitions.sales_2024_01")
    with pytest.raises(
        CheckViolation, match=r"partitions\.sales_2024_01 is not a partition of public\.sales.*Drop the table"
    ):
        load_month(database, "2024-01-01")
    database.run("drop table partitions.sales_2024_01")
    load_month(database, "2024-01-01")
    assert len(sales(database)) == 4


def test_changed_stores_are_shown_until_a_list_has_repaired_them_and_compared_by_the_columns_that_they_have(
    database: Database, months: Files
) -> None:
    older, compare = Run(database, SALES, "2024-01-01"), Run(database, MAINTENANCE)
    older.run("stage_sales", "stage_stores", "check_month", "compare_month", "approve_month")
    load_month(database, "2024-02-01")
    for schema in ("public", "staging"):  # as a migration does
        database.run(f"alter table {schema}.stores add column city text")
    compare.run("compare_tables")
    shown = "select status from data_freshness where table_name = 'stores'"
    assert database.run(shown) == [("loaded",)]
    database.run("update stores set location = 'another'; alter table stores drop city")
    database.run("alter table staging.stores drop city")
    compare.run("compare_tables")
    older.run("publish_month")  # with an older list, which changes no location
    assert database.run(shown) == [("changed",)]
    load_month(database, "2024-02-01")
    assert database.run(shown) == [("loaded",)]


SALES_TABLES = {"sales", "monthly_sales"}
SUMS = "public.monthly_sales has other sums than the published file for 1 values of store_idx."
# What is done, the tables that show it, and what is said; others are in tests/cases/maintenance.
CHANGES = {
    "update sales set value = 9 where date = '2024-01-09'": (
        SALES_TABLES,
        "The table has 2 rows, total 10.50, and the published file has 2 rows, total 3.50.",
    ),
    "insert into sales values (3, 0, '2024-01-31', 1)": (
        SALES_TABLES,
        "The table has 3 rows, total 3.50, and the published file has 2 rows, total 3.50.",
    ),
    "delete from monthly_sales where sale_month = '2024-01-01'": (SALES_TABLES, SUMS),
    "insert into monthly_sales values (2, 'Faro', '2024-01-01', 1)": (SALES_TABLES, SUMS),
    "delete from stores": ({"stores"}, "1 rows of the published file are missing or were changed."),
    "drop table {staged_stores}": ({"stores"}, "{staged_stores} is gone, with which the table would be compared."),
    "delete from labels": ({"labels"}, "The table has 0 rows, total 0, and the published file has 2 rows, total 1."),
    "delete from customer_profiles": (
        {"customer_profiles"},
        "The table has 0 rows, and the published file has 1 rows.",
    ),
}


def test_rows_that_were_changed_by_hand_are_noticed_and_shown_until_the_file_is_loaded_again(
    database: Database, tables: None, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = "select table_name, error from data_freshness where status = 'changed'"
    compare = Run(database, MAINTENANCE)
    compare.run("compare_tables")
    assert database.run(changed) == []
    assert database.run("select count(*) from pipeline.files where compared_at is null") == [(0,)]

    staged = "select staged_table from pipeline.loads where status = 'published' and staged_table ~ 'stores'"
    for statement, (shown_by, difference) in CHANGES.items():
        [(staged_stores,)] = database.run(staged)
        database.run(statement.format(staged_stores=staged_stores))
        difference = difference.format(staged_stores=staged_stores)
        compare.run("compare_tables")
        month = "2024-01: " if shown_by == SALES_TABLES else ""
        shown: dict[str, str] = dict(database.run(changed, "ds_user"))
        assert shown == dict.fromkeys(shown_by, f"{month}{difference} To repair it, load the file again."), statement
        assert database.run("select difference from pipeline.files where difference is not null") == [(difference,)]
        if shown_by == SALES_TABLES:
            assert database.run("select file_month::text, status, error from month_status", "ds_user") == [
                ("2024-01-01", "changed", f"{difference} To repair it, load the file again."),
                ("2024-02-01", "loaded", None),
            ]
        found = read_status(database.url("ds_user"), [])
        assert not found.complete
        print_status(found)
        assert "still loaded" not in capsys.readouterr().out
        if shown_by <= {*SALES_TABLES, "stores"}:
            load_month(database, "2024-01-01")
        else:
            load_customers(database)
        assert database.run(changed) == [], statement
        repaired = f"select compared_at, difference from pipeline.files where table_name = '{max(shown_by)}'"
        assert (None, None) in database.run(repaired)


def test_a_policy_that_could_hide_rows_fails_the_comparison(database: Database, tables: None) -> None:
    for table in ("sales", "monthly_sales", "stores", "labels"):
        database.run(f"alter table {table} enable row level security")
        database.run(f"create policy all_rows on {table} to pipeline using (true)")
        with pytest.raises(InsufficientPrivilege, match=f'row-level security policy for table "{table}"'):
            Run(database, MAINTENANCE).run("compare_tables")
        database.run(f"alter table {table} disable row level security")
    assert database.run("select count(*) from pipeline.files where compared_at is not null") == [(0,)]


def test_a_file_that_is_published_or_locked_while_the_tables_are_compared_is_left_out(
    database: Database, months: Files
) -> None:
    first, *others = DbApiHook.split_sql_string((SQL / "maintenance/compare_tables.sql").read_text())
    database.run("update sales set value = 9")
    write_month(months, "2024-01", "1,5,2024-01-01,1")
    with connect(database) as comparing, comparing.transaction(), database.connect() as locking:
        comparing.execute(first)
        load_month(database, "2024-01-01")
        with locking.transaction():
            locking.execute("select from pipeline.files where table_name = 'stores' for no key update")
            for statement in others:
                comparing.execute(statement)
    found = database.run("""
        select table_name, file_month::text, compared_at is null, difference is null
        from pipeline.files order by 1, 2
    """)
    assert found == [
        ("sales", "2024-01-01", True, True),
        ("sales", "2024-02-01", False, False),
        ("stores", None, True, True),
    ]
    assert sales(database)[0] == ("2024-01-01", 5)


def test_a_load_that_was_not_published_for_30_days_is_discarded_and_stays_in_the_ledger(
    database: Database, months: Files
) -> None:
    staged = "select relname from pg_class where relnamespace = 'staging'::regnamespace and relname ~ '_[0-9]+$'"
    [(published_stores,)] = database.run("select max(relname) from pg_class where relname ~ '^stores_[0-9]+$'")
    runs = [Run(database, SALES, "2024-01-01"), Run(database, SALES, "2024-02-01")]
    for run in runs:
        run.run("stage_sales", "stage_stores", "check_month")
    abandoned = tuple(runs[0].loads.values())
    database.run(f"update pipeline.loads set updated_at = now() - interval '31 days' where load_id in {abandoned}")
    loads = database.run("select count(*) from pipeline.loads")
    assert len(database.run(staged)) == 5

    Run(database, MAINTENANCE).run("discard_orphans", "analyze_months")
    assert database.run("select count(*) from pipeline.loads") == loads
    assert set(database.run(f"select status, error ~ '30 days' from pipeline.loads where load_id in {abandoned}")) == {
        ("failed", True)
    }
    kept = {f"{table}_{load}" for table, load in zip(("sales", "stores"), runs[1].loads.values(), strict=True)}
    assert {name for (name,) in database.run(staged)} == kept | {published_stores}
    assert database.run("select count(*) > 0 from pg_stats where tablename = 'sales' and inherited") == [(True,)]
    runs[1].run("publish_month")
    with pytest.raises(CheckViolation, match="30 days"):
        runs[0].run("publish_month")


def test_old_log_files_are_deleted_with_the_folders_that_they_leave_empty(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for name, days in (("a/run_id=1/attempt=1.log", 91), ("a/run_id=2/attempt=1.log", 89), ("b/c/d.log", 99)):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text("x" * 1_000_000)
        os.utime(file, times=2 * ((now - timedelta(days=days)).timestamp(),))
    for folder in [folder for folder in tmp_path.rglob("*") if folder.is_dir()]:
        os.utime(folder, times=2 * ((now - timedelta(days=99)).timestamp(),))
    (tmp_path / "new").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    text = log_files.delete_files(tmp_path, now - log_files.LOGS_KEPT)
    assert text == "logs: deleted 2 files; 2 are left, 1 MB"
    kept = ("a", "a/run_id=2", "a/run_id=2/attempt=1.log", "latest", "new")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / name for name in kept]


# By hand 500, on PostgreSQL.
MONTHS = int(os.environ.get("MAINTENANCE_MONTHS", "4"))
MONTH = timedelta(days=31)
KEPT = 1


def test_airflows_database_does_not_grow_with_the_months(airflow: None, database: Database, files: Files) -> None:
    from airflow import settings
    from airflow.cli.cli_parser import get_parser
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.utils.db import resetdb
    from sqlalchemy import MetaData, func, select
    from support.airflow_runs import dag_bag, run_dag

    resetdb()  # it has the runs of other tests
    dag_bag.cache_clear()
    engine: Any = settings.engine
    metadata = MetaData()
    metadata.reflect(engine)
    counts: list[dict[str, int]] = []
    for month in months_before(date(2025, 1, 1), MONTHS):
        write_month(files, f"{month:%Y-%m}", f"1,1.50,{month},1")
        sync_bag_to_db(dag_bag(), dag_bag().bundle_name, None)
        assert run_dag(SALES, f"{month:%Y-%m}") == "success"
        with engine.begin() as connection:
            date_a_month_back(connection, set(metadata.tables))
        # What `python -m services.airflow_db_clean` does, in this process.
        command = get_parser().parse_args(clean_command(datetime.now(UTC) - KEPT * MONTH - MONTH / 2))
        command.func(command)
        with engine.connect() as connection:
            counts.append(
                {
                    name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                    for name, table in metadata.tables.items()
                }
            )
    assert counts[-1]["dag_run"] == KEPT
    assert counts[-1]["task_instance"] == KEPT * len(dag(SALES).tasks)
    # From the month on in which the first run is deleted, no table has more rows than the month before.
    for before, after in zip(counts[KEPT + 1 :], counts[KEPT + 2 :], strict=False):
        assert after == before
    assert database.run("select count(*) from pipeline.loads") == [(2 * MONTHS,)]


def date_a_month_back(connection: Any, tables: set[str]) -> None:
    """Date all records of Airflow a month back, as those of a scheduler."""
    from airflow.utils.db_cleanup import config_list
    from sqlalchemy import column, table, text, update

    # The run is a manual one that began at its logical date.
    new = "update dag_run set run_type = 'scheduled', start_date = current_timestamp where run_type = 'manual'"
    connection.execute(text(new))
    earlier = "datetime({}, '-31 days')" if connection.dialect.name == "sqlite" else "{} - interval '31 days'"
    for config in config_list:
        if config.table_name in tables:
            name = config.recency_column_name
            moved = update(table(config.table_name, column(name))).values({name: text(earlier.format(name))})
            connection.execute(moved)
