"""What accumulates is removed, the ledger is kept, changed rows are noticed, and old months can be taken out."""

import os
import re
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from conftest import ROOT, Database, Files, Rows, RunDag, month_after
from psycopg.errors import CheckViolation, InsufficientPrivilege
from support.steps import MAINTENANCE, SALES, SQL, Run, connect, dag, load_customers, load_month

from company_data import log_files
from embedded.sample_data import months_before
from services.airflow_db_clean import clean_command
from services.status import read_status

pytestmark = pytest.mark.slow

HEADER = "idx,value,date,store_idx\n"
MONTHS_SHOWN = "select sale_month::text, status, row_count from month_status"


@pytest.fixture
def months(database: Database, files: Files) -> Files:
    """January and February 2024 are loaded."""
    files.write("stores.csv", "idx,location\n1,Porto\n")
    for month in ("2024-01", "2024-02"):
        files.write(f"sales/{month}-01/sales.csv", f"{HEADER}1,1.50,{month}-01,1\n2,2,{month}-09,1\n")
        load_month(database, f"{month}-01")
    return files


def sales(database: Database) -> Rows:
    return database.run("select date::text, value from sales order by date", user="ds_user")


def published_load(database: Database, month: str) -> int:
    [(load,)] = database.run(f"""
        select load_id from pipeline.loads join pipeline.files using (file_id)
        where file_month = '{month}' and status = 'published'
    """)
    return int(load)


def take_out(database: Database) -> None:
    """January, by the command of the page."""
    page = (ROOT / "docs/operations.md").read_text()
    [written] = re.findall(r"## Take an old month out\n.*?```sh\n(.*?)```", page, re.S)
    text = written.replace("postgresql://admin:admin@localhost:5432/companydata", database.url())
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:{database.cluster.programs}"}
    command = ["/usr/bin/env", "bash", "-ec", text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_month_is_taken_out_beside_readers_and_comes_back_when_it_is_loaded(
    database: Database, months: Files
) -> None:
    seen: set[tuple[Any, ...]] = set()
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            with database.connect("ds_user") as reader:
                reader.execute("set lock_timeout = '1ms'")
                while not stop.is_set():
                    seen.update(reader.execute("select count(*), sum(value) from sales").fetchall())
        except BaseException as error:
            errors.append(error)

    sums = database.run("select * from monthly_sales order by sale_month")
    reading = threading.Thread(target=read)
    reading.start()
    try:
        take_out(database)
    finally:
        stop.set()
        reading.join()
    assert errors == []
    assert seen <= {(4, 7), (2, Decimal("3.50"))}

    assert [day for day, _ in sales(database)] == ["2024-02-01", "2024-02-09"]
    assert database.run("select * from monthly_sales order by sale_month") == sums
    assert database.run(MONTHS_SHOWN, user="ds_user") == [("2024-01-01", "retired", None), ("2024-02-01", "loaded", 2)]
    shown = "select row_count from data_freshness where table_name in ('sales', 'monthly_sales')"
    assert database.run(shown, user="ds_user") == [(2,), (2,)]
    status = read_status(database.url("ds_user"), [])
    assert list(status.month_states.values()) == ["retired", "loaded"]

    # Nothing expects its rows; its sums and the other months are compared as before.
    Run(database, MAINTENANCE).run("compare_tables", "analyze_sales")
    assert database.run("select file_month::text, compared_at is null, difference from pipeline.files order by 1") == [
        ("2024-01-01", True, None),
        ("2024-02-01", False, None),
        (None, False, None),
    ]

    # A failed attempt changes nothing, and a good one brings the month back.
    good = (months.folder / "sales/2024-01-01/sales.csv").read_text()
    months.write("sales/2024-01-01/sales.csv", f"{HEADER}1,1,2024-01-01,9\n")
    with pytest.raises(CheckViolation):
        load_month(database, "2024-01-01")
    assert database.run(MONTHS_SHOWN)[0] == ("2024-01-01", "rejected", None)
    assert len(sales(database)) == 2
    months.write("sales/2024-01-01/sales.csv", good + "3,7,2024-01-31,1\n")
    load_month(database, "2024-01-01")
    assert database.run(MONTHS_SHOWN)[0] == ("2024-01-01", "loaded", 3)
    assert len(sales(database)) == 5
    assert database.run("select count(*) from pipeline.loads where status = 'retired'") == [(0,)]


def test_a_month_whose_rows_stand_is_not_retired_and_only_a_month_is(database: Database, months: Files) -> None:
    load = published_load(database, "2024-01-01")
    with pytest.raises(CheckViolation, match=r"public\.sales still has the rows of 2024-01-01"):
        database.run(f"select pipeline.retire_load({load})")
    for other in (load + 1, 0):  # the load of its stores, and none
        with pytest.raises(CheckViolation, match=f"Load {other} is not the published load of a month"):
            database.run(f"select pipeline.retire_load({other})")
    assert database.run(MONTHS_SHOWN)[0] == ("2024-01-01", "loaded", 2)


SALES_TABLES = {"sales", "monthly_sales"}
CHANGES = {
    "delete from sales where date = '2024-01-09'": (
        SALES_TABLES,
        "The table has 1 rows, total 1.50, and the published file has 2 rows, total 3.50.",
    ),
    "update sales set value = 9 where date = '2024-01-09'": (
        SALES_TABLES,
        "The table has 2 rows, total 10.50, and the published file has 2 rows, total 3.50.",
    ),
    "insert into sales values (3, 0, '2024-01-31', 1)": (
        SALES_TABLES,
        "The table has 3 rows, total 3.50, and the published file has 2 rows, total 3.50.",
    ),
    "delete from monthly_sales where sale_month = '2024-01-01'": (
        SALES_TABLES,
        "monthly_sales has other sums than the published file for 1 stores, the first of them: store 1.",
    ),
    "update monthly_sales set value = value + 1 where sale_month = '2024-01-01'": (
        SALES_TABLES,
        "monthly_sales has other sums than the published file for 1 stores, the first of them: store 1.",
    ),
    "insert into monthly_sales values (2, 'Faro', '2024-01-01', 1)": (
        SALES_TABLES,
        "monthly_sales has other sums than the published file for 1 stores, the first of them: store 2.",
    ),
    "update stores set location = 'Lisboa'": ({"stores"}, "1 rows of the published file are missing or were changed."),
    "delete from stores": ({"stores"}, "1 rows of the published file are missing or were changed."),
    "drop table {staged_stores}": ({"stores"}, "{staged_stores} is gone, with which the table would be compared."),
    "update labels set label = 1": (
        {"labels"},
        "The table has 2 rows, total 2, and the published file has 2 rows, total 1.",
    ),
    "delete from labels": ({"labels"}, "The table has 0 rows, total 0, and the published file has 2 rows, total 1."),
    "delete from customer_profiles": (
        {"customer_profiles"},
        "The table has 0 rows, and the published file has 1 rows.",
    ),
}


def test_rows_that_were_changed_by_hand_are_noticed_and_shown_until_the_file_is_loaded_again(
    database: Database, months: Files
) -> None:
    months.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c\n1,1,A,x\n")
    months.write("customer_activity.csv", "idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,1,1\n")
    months.write("labels.csv", "idx,label\n1,0\n2,1\n")
    load_customers(database)
    changed = "select table_name, error from data_freshness where status = 'changed'"
    compare = Run(database, MAINTENANCE)
    compare.run("compare_tables")
    assert database.run(changed) == []
    assert database.run("select count(*) from pipeline.files where compared_at is null") == [(0,)]

    staged = "select staged_table from pipeline.loads where status = 'published' and staged_table ~ 'stores'"
    for statement, (tables, difference) in CHANGES.items():
        [(staged_stores,)] = database.run(staged)
        database.run(statement.format(staged_stores=staged_stores))
        difference = difference.format(staged_stores=staged_stores)
        compare.run("compare_tables")
        shown: dict[str, str] = dict(database.run(changed, "ds_user"))
        month = "2024-01: " if tables == SALES_TABLES else ""
        assert shown == dict.fromkeys(tables, f"{month}{difference} To repair it, load the file again."), statement
        assert database.run("select difference from pipeline.files where difference is not null") == [(difference,)]
        if tables == SALES_TABLES:
            assert database.run("select sale_month::text, status, error from month_status", "ds_user") == [
                ("2024-01-01", "changed", f"{difference} To repair it, load the month again."),
                ("2024-02-01", "loaded", None),
            ]
        assert not read_status(database.url("ds_user"), []).complete
        if tables <= {*SALES_TABLES, "stores"}:
            load_month(database, "2024-01-01")
        else:
            load_customers(database)
        assert database.run(changed) == [], statement
        repaired = f"select compared_at, difference from pipeline.files where table_name = '{max(tables)}'"
        assert (None, None) in database.run(repaired)


@pytest.mark.parametrize("table", ["sales", "monthly_sales", "stores", "labels"])
def test_a_policy_that_could_hide_rows_fails_the_comparison(database: Database, months: Files, table: str) -> None:
    months.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c\n")
    months.write("customer_activity.csv", "idx,valid_from,valid_to,scd_a,scd_b\n")
    months.write("labels.csv", "idx,label\n")
    load_customers(database)
    database.run(f"alter table {table} enable row level security")
    database.run(f"create policy all_rows on {table} to pipeline using (true)")
    with pytest.raises(InsufficientPrivilege, match=f'row-level security policy for table "{table}"'):
        Run(database, MAINTENANCE).run("compare_tables")
    assert database.run("select count(*) from pipeline.files where compared_at is not null") == [(0,)]


def test_a_file_that_is_published_or_locked_while_the_tables_are_compared_is_left_out(
    database: Database, months: Files
) -> None:
    first, *others = DbApiHook.split_sql_string((SQL / "maintenance/compare_tables.sql").read_text())
    database.run("update sales set value = 9")
    months.write("sales/2024-01-01/sales.csv", f"{HEADER}1,5,2024-01-01,1\n")
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

    Run(database, MAINTENANCE).run("discard_orphans", "analyze_sales")
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


def test_the_stores_of_a_run_that_is_still_to_publish_are_no_orphans_although_they_are_superseded(
    database: Database, months: Files
) -> None:
    months.write("stores.csv", "idx,location\n1,Porto\n2,Faro\n")
    months.write("sales/2024-01-01/sales.csv", f"{HEADER}1,5,2024-01-01,2\n")
    slow = Run(database, SALES, "2024-01-01")
    slow.run("stage_sales", "stage_stores", "check_month")
    # A newer list lacks store 2.
    months.write("stores.csv", "idx,location\n1,Porto\n")
    load_month(database, "2024-02-01")
    Run(database, MAINTENANCE).run("discard_orphans")
    slow.run("publish_month")
    january = "select store_idx, location, value from monthly_sales where sale_month = '2024-01-01'"
    assert database.run(january) == [(2, "Faro", 5)]
    assert sales(database)[0] == ("2024-01-01", 5)


def test_a_load_whose_session_is_connected_is_not_an_orphan(database: Database, months: Files) -> None:
    with connect(database) as loading:
        loading.execute("select pipeline.begin_load('stores', null, 'https://here', 'a dag', 'a run')")
        Run(database, MAINTENANCE).run("discard_orphans")
        assert database.run("select status from pipeline.loads order by load_id desc limit 1") == [("loading",)]


def test_old_log_files_are_deleted_with_the_folders_that_they_leave_empty(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for name, days in (
        ("dag_id=a/run_id=1/attempt=1.log", 91),
        ("dag_id=a/run_id=2/attempt=1.log", 89),
        ("b/c.log", 99),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text("x" * 1_000_000)
        os.utime(file, times=2 * ((now - timedelta(days=days)).timestamp(),))
    for folder in [folder for folder in tmp_path.rglob("*") if folder.is_dir()]:
        os.utime(folder, times=2 * ((now - timedelta(days=99)).timestamp(),))
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    text = log_files.delete_files(tmp_path, now - log_files.LOGS_KEPT)
    assert text == "logs: deleted 2 files; 2 are left, 1 MB"
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.log")) == [
        "dag_id=a/run_id=2/attempt=1.log"
    ]


# By hand 500, on PostgreSQL: see docs/performance.md.
MONTHS = int(os.environ.get("MAINTENANCE_MONTHS", "5"))
MONTH = timedelta(days=31)
KEPT = 2


def test_airflows_database_does_not_grow_with_the_months(
    database: Database,
    files: Files,
    run_dag: RunDag,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from airflow.utils.db import resetdb

    resetdb()  # it has the runs of other tests
    monkeypatch.setenv("SALES_FIRST_MONTH", "1980-01")
    files.write("stores.csv", "idx,location\n1,Porto\n")
    counts: list[dict[str, int]] = []
    for month in months_before(datetime(2025, 1, 1, tzinfo=UTC).date(), MONTHS):
        files.write(f"sales/{month}/sales.csv", f"{HEADER}1,1.50,{month},1\n")
        assert run_dag(SALES, month_after(f"{month:%Y-%m}")) == "success"
        a_month_passes()
        clean(datetime.now(UTC) - KEPT * MONTH - MONTH / 2)
        counts.append(rows_of_airflow())
        with capsys.disabled():
            print(f"{month:%Y-%m} {sum(counts[-1].values())} rows, {size_of_airflow() / 1e6:.1f} MB", flush=True)
    assert counts[-1]["dag_run"] == KEPT
    assert counts[-1]["task_instance"] == KEPT * len(dag(SALES).tasks)
    # From the month on in which the first run is deleted, no table has more rows than the month before.
    for before, after in zip(counts[KEPT + 1 :], counts[KEPT + 2 :], strict=False):
        assert after == before
    assert database.run("select count(*) from pipeline.loads") == [(2 * MONTHS,)]


def airflow_engine() -> Any:
    from airflow import settings

    return settings.engine


def a_month_passes() -> None:
    """Date all records of Airflow a month back, as those of a scheduler."""
    from airflow.utils.db_cleanup import config_list
    from sqlalchemy import MetaData, column, table, text, update

    metadata = MetaData()
    with airflow_engine().begin() as connection:
        metadata.reflect(connection)
        # DAG.test makes a manual run that began at its logical date.
        new = "update dag_run set run_type = 'scheduled', start_date = current_timestamp where run_type = 'manual'"
        connection.execute(text(new))
        for config in config_list:
            if config.table_name not in metadata.tables:
                continue
            name = config.recency_column_name
            earlier = "datetime({}, '-31 days')" if connection.dialect.name == "sqlite" else "{} - interval '31 days'"
            moved = update(table(config.table_name, column(name))).values({name: text(earlier.format(name))})
            connection.execute(moved)


def clean(before: datetime) -> None:
    """What `python -m services.airflow_db_clean` does, in this process."""
    from airflow.cli.cli_parser import get_parser

    arguments = get_parser().parse_args(clean_command(before))
    arguments.func(arguments)


def rows_of_airflow() -> dict[str, int]:
    from sqlalchemy import MetaData, func, select

    metadata = MetaData()
    with airflow_engine().connect() as connection:
        metadata.reflect(connection)
        return {
            name: connection.execute(select(func.count()).select_from(found)).scalar_one()
            for name, found in metadata.tables.items()
        }


def size_of_airflow() -> Any:
    from sqlalchemy import text

    with airflow_engine().connect() as connection:
        if connection.dialect.name == "sqlite":
            return connection.execute(
                text("select page_count * page_size from pragma_page_count, pragma_page_size")
            ).scalar_one()
        return connection.execute(text("select pg_database_size(current_database())")).scalar_one()
