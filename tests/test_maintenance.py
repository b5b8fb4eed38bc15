"""What accumulates is removed, the ledger is kept, and old months can be taken out and brought back."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import Database, Files, Rows, RunDag, month_after
from psycopg.errors import CheckViolation, LockNotAvailable
from steps import MAINTENANCE, SALES, Run, connect, dag, load_month

from company_data import maintenance
from local.cleaning import clean_command
from local.sample_data import months_before

pytestmark = pytest.mark.slow

HEADER = "idx,value,date,store_idx\n"
STATES = "select sale_month::text, state, row_count from month_status"


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


def test_a_month_is_archived_and_comes_back_and_its_status_is_true_all_the_time(
    database: Database, months: Files
) -> None:
    before = database.run("select *, tableoid::regclass::text from sales order by date")
    freshness = database.run("select * from data_freshness")
    sums = database.run("select * from monthly_sales order by sale_month")

    assert database.run("select pipeline.archive_month('2024-01-01')") == [("2 rows are in archive.sales_2024_01",)]
    assert [day for day, _ in sales(database)] == ["2024-02-01", "2024-02-09"]
    assert database.run("select * from monthly_sales order by sale_month") == sums
    assert database.run(STATES, user="ds_user") == [("2024-01-01", "archived", None), ("2024-02-01", "loaded", 2)]
    assert database.run("select row_count from data_freshness where table_name = 'sales'") == [(2,)]
    sums_shown = "select row_count from data_freshness where table_name = 'monthly_sales'"
    assert database.run(sums_shown, user="ds_user") == [(len(sums),)]
    with pytest.raises(CheckViolation, match="2024-01-01 is not a month that is loaded"):
        database.run("select pipeline.archive_month('2024-01-01')")

    assert database.run("select pipeline.unarchive_month('2024-01-01')") == [("2 rows are in public.sales again",)]
    assert database.run("select *, tableoid::regclass::text from sales order by date") == before
    assert database.run(STATES) == [("2024-01-01", "loaded", 2), ("2024-02-01", "loaded", 2)]
    assert database.run("select * from data_freshness") == freshness
    with pytest.raises(CheckViolation, match="2024-01-01 is not a month that is archived"):
        database.run("select pipeline.unarchive_month('2024-01-01')")
    # The month is an ordinary one again.
    load_month(database, "2024-01-01")
    assert [value for _, value in sales(database)] == [Decimal("1.50"), 2, Decimal("1.50"), 2]


def test_an_archived_month_moves_into_a_file_and_comes_back_from_it(
    database: Database, months: Files, tmp_path: Path
) -> None:
    def program(name: str, *arguments: str) -> None:
        command = [str(database.cluster.programs / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    before = sales(database)
    database.run("select pipeline.archive_month('2024-01-01')")
    file = str(tmp_path / "sales_2024_01.dump")
    program("pg_dump", database.url(), "--format=custom", "--table=archive.sales_2024_01", f"--file={file}")
    database.run("drop table archive.sales_2024_01")
    with pytest.raises(CheckViolation, match="Restore it with pg_restore"):
        database.run("select pipeline.unarchive_month('2024-01-01')")
    program("pg_restore", f"--dbname={database.url()}", file)
    database.run("select pipeline.unarchive_month('2024-01-01')")
    assert sales(database) == before


def test_an_archived_month_can_be_loaded_again_and_a_failed_try_does_not_lose_it(
    database: Database, months: Files
) -> None:
    database.run("select pipeline.archive_month('2024-01-01')")
    good = (months.folder / "sales/2024-01-01/sales.csv").read_text()
    months.write("sales/2024-01-01/sales.csv", f"{HEADER}1,1,2024-01-01,9\n")
    with pytest.raises(CheckViolation):
        load_month(database, "2024-01-01")
    assert database.run(STATES)[0][1] == "rejected"
    database.run("select pipeline.unarchive_month('2024-01-01')")
    assert len(sales(database)) == 4

    database.run("select pipeline.archive_month('2024-01-01')")
    months.write("sales/2024-01-01/sales.csv", good + "3,7,2024-01-31,1\n")
    load_month(database, "2024-01-01")
    assert database.run(STATES)[0] == ("2024-01-01", "loaded", 3)
    # The table that was archived first is superseded.
    database.run("select pipeline.archive_month('2024-01-01')")
    assert database.run("select count(*) from archive.sales_2024_01") == [(3,)]


def test_a_month_is_not_archived_while_a_session_reads_sales(database: Database, months: Files) -> None:
    with database.connect("ds_user") as reader, reader.transaction():
        reader.execute("select count(*) from sales")
        with pytest.raises(LockNotAvailable):
            database.run("select pipeline.archive_month('2024-01-01')")
        assert reader.execute("select count(*) from sales").fetchone() == (4,)
    assert database.run(STATES)[0][1] == "loaded"


def test_the_pipeline_and_readers_cannot_archive(database: Database, months: Files) -> None:
    for user in ("pipeline", "ds_user", "mle_user"):
        with pytest.raises(Exception, match="permission denied"):
            database.run("select pipeline.archive_month('2024-01-01')", user=user)


def test_a_load_that_was_not_published_for_30_days_is_discarded_and_stays_in_the_ledger(
    database: Database, months: Files
) -> None:
    runs = [Run(database, SALES, "2024-01-01"), Run(database, SALES, "2024-02-01")]
    for run in runs:
        run.run("stage_sales", "stage_stores", "check_month")
    abandoned = tuple(runs[0].loads.values())
    database.run(f"update pipeline.loads set updated_at = now() - interval '31 days' where load_id in {abandoned}")
    loads = database.run("select count(*) from pipeline.loads")
    staged = "select relname from pg_class where relnamespace = 'staging'::regnamespace and relname ~ '_[0-9]+$'"
    assert len(database.run(staged)) == 4

    Run(database, MAINTENANCE).run("discard_orphans", "analyze_sales")
    assert database.run("select count(*) from pipeline.loads") == loads
    assert set(
        database.run(f"select status, problem ~ '30 days' from pipeline.loads where load_id in {abandoned}")
    ) == {("failed", True)}
    kept = {f"{table}_{load}" for table, load in zip(("sales", "stores"), runs[1].loads.values(), strict=True)}
    assert {name for (name,) in database.run(staged)} == kept
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
        loading.execute("select pipeline.begin_load('stores', null, 'https://here', 'a run')")
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
    text = maintenance.delete_files(tmp_path, now - maintenance.LOGS_KEPT)
    assert text == "logs: deleted 2 files; 2 are left, 1 MB"
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.log")) == [
        "dag_id=a/run_id=2/attempt=1.log"
    ]


# By hand 500, on PostgreSQL: see docs/performance.md.
MONTHS = int(os.environ.get("MAINTENANCE_MONTHS", "6"))
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
    """What `python -m local.cleaning` does, in this process."""
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
