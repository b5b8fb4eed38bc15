"""Each DAG from an HTTPS bucket to the rows that people read."""

import re
import warnings
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from conftest import ROOT, Database, Files, Rows
from support import csv_text
from support.airflow_runs import AirflowRun, run_dag
from support.bucket_files import write_customers
from support.steps import CUSTOMERS, FEATURES, MAINTENANCE, SALES, alter_sales, dag, load_customers, load_month

from company_data import schedule, settings, source
from company_data.errors import FileRejected

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]

STORES = csv_text.stores("1,Porto", '2,"Faro, Sul"', "3,Łódź")
FEBRUARY = csv_text.sales("1,10.10,2024-02-01,1", "2,0.20,2024-02-29,1", "3,-5,2024-02-15,2")
FEBRUARY_SUMS = [(1, "Porto", date(2024, 2, 1), Decimal("10.30")), (2, "Faro, Sul", date(2024, 2, 1), Decimal(-5))]


def write_sales(files: Files, month: str, content: str) -> None:
    files.write("stores.csv", STORES)
    files.write(f"sales/{month}-01/sales.csv", content)


def monthly_sales(database: Database) -> Rows:
    query = "select store_idx, location, sale_month, value from monthly_sales order by sale_month, store_idx"
    return database.run(query)


def test_the_dags_are_these_four_and_none_of_our_files_warns() -> None:
    from airflow.dag_processing.dagbag import DagBag

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    assert set(bag.dags) == {CUSTOMERS, SALES, FEATURES, MAINTENANCE}
    assert [str(warning) for warning in caught if str(ROOT / "dags") in warning.filename] == []


def test_a_scheduled_run_builds_one_row_for_each_complete_client_and_is_skipped_if_nothing_is_stale(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import update

    write_customers(
        files,
        ["1,10,A,xyz", '2,20,B,"a,b"', "3,30,C,", "4,40,D,ç"],
        [
            *("1,2020-01-01,2020-06-30,0.12345678901234567,1", "1,2020-07-01,,0.98765432109876543,2"),
            *("2,2020-01-01,2020-03-31,1.5,3", "2,2020-04-01,2020-12-31,2.5,4", "3,2020-01-01,,3.5,5"),
        ],
        ["1,0", "2,1", "4,1", "5,0"],
    )
    load_customers(database)
    database.run("create view public.of_others as select idx, label from feature_store", user="mle_user")
    for end in ("success", "skipped"):
        run = AirflowRun(FEATURES)
        with create_session() as session:
            session.execute(update(DagRun).where(DagRun.run_id == run.run_id).values(run_type="scheduled"))
        assert run.go_on() == "success"
        assert set(run.states.values()) == {end}
    left_out = "2 of 4 clients with a profile; left out: 1 without an activity, 1 without a label"
    assert left_out in capsys.readouterr().out
    assert run_dag(FEATURES) == "success"  # a run that is triggered builds always
    assert database.run("select * from feature_store order by idx", user="ds_user") == [
        (1, 10, "A", 0.98765432109876543, 2, 0),
        (2, 20, "B", 2.5, 4, 1),
    ]
    assert database.run("select * from of_others order by idx", user="ds_user") == [(1, 0), (2, 1)]


def test_a_month_touches_no_other_and_comes_back_identical_after_its_rows_were_deleted(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sales(files, "2023-12", "store_idx,date,value,idx\n3,2023-12-31,7.77,1\n")
    write_sales(files, "2024-02", FEBRUARY)
    december = (3, "Łódź", date(2023, 12, 1), Decimal("7.77"))
    place = "select tableoid::regclass, ctid, * from sales where date < '2024-01-01'"
    load_month(database, "2023-12-01")
    before = database.run(place)
    for driver in ("postgresql", "postgres"):
        monkeypatch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline", driver=driver))
        assert run_dag(SALES, "2024-02") == "success"
        assert monthly_sales(database) == [december, *FEBRUARY_SUMS]
        assert database.run("select idx, value, date, store_idx from sales where date > '2024-01-01' order by idx") == [
            (1, Decimal("10.10"), date(2024, 2, 1), 1),
            (2, Decimal("0.20"), date(2024, 2, 29), 1),
            (3, Decimal(-5), date(2024, 2, 15), 2),
        ]
        assert database.run(place) == before
        database.run("delete from sales where date >= '2024-02-01'")
        database.run("delete from monthly_sales where sale_month = '2024-02-01'")
    assert database.run("select location from stores order by idx") == [("Porto",), ("Faro, Sul",), ("Łódź",)]


def test_a_month_that_a_migration_overtakes_is_rejected_with_its_reason_until_it_is_staged_again(
    database: Database, files: Files
) -> None:
    write_sales(files, "2024-02", FEBRUARY)
    run = AirflowRun(SALES, "2024-02")
    for task, go_on in (("check_month", run.go_on), ("publish_month", run.clear)):
        run.before[task] = lambda: alter_sales(database, "add column note text")
        assert go_on() == "failed"
        assert run.states[task] == "failed"
        [(status, error)] = database.run("select status, error from month_status where file_month = '2024-02-01'")
        assert status == "rejected"
        assert "since it was staged, a migration has changed the columns" in error
        assert "Clear the whole run." in error
        assert monthly_sales(database) == []
        alter_sales(database, "drop column note")
    assert run.clear() == "success"
    assert monthly_sales(database) == FEBRUARY_SUMS


def test_a_staging_task_that_a_person_marks_as_success_publishes_nothing_and_says_why(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sales(files, "2024-02", csv_text.sales("1,many,2024-02-01,1"))
    run = AirflowRun(SALES, "2024-02")
    assert run.go_on() == "failed"
    capsys.readouterr()
    assert run.mark_as_success("stage_sales") == "failed"
    log = capsys.readouterr().out
    assert (
        "is not in pipeline.loads. It has no staged rows, and the tables stay as they were. Clear the whole run." in log
    )
    assert "TypeError" not in log


def test_a_run_whose_timetable_was_not_asked_fails_at_once_with_what_to_do(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_dag(SALES, retries=3) == "failed"
    reason = r"The run manual__\S+ loads nothing: its data interval from .* is not one whole month .* Delete this run"
    assert re.search(reason, capsys.readouterr().out)
    coming = f"{datetime.now(UTC) + timedelta(days=31):%Y-%m}"
    assert run_dag(SALES, coming, retries=3) == "failed"
    assert f"{coming} has not ended. Delete this run." in capsys.readouterr().out
    assert database.run("select count(*) from pipeline.loads") == [(0,)]

    # The clock of the scheduler may be ahead of that of the worker.
    monkeypatch.setattr(schedule, "CLOCKS_DIFFER_BY", timedelta(days=99))
    write_sales(files, coming, csv_text.sales(f"1,1,{coming}-01,1"))
    assert run_dag(SALES, coming) == "success"


def test_a_plain_http_source_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_BASE_URL", "http://127.0.0.1:1")
    with pytest.raises(FileRejected, match="only https is read"), source.open_file(settings.source_url("labels.csv")):
        pass


def test_an_address_of_the_database_with_a_driver_is_answered_with_a_sentence(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline", driver="postgresql+psycopg2"))
    assert run_dag(SALES, "2024-02", retries=3) == "failed"
    log = capsys.readouterr().out
    assert 'operational_db has the type "postgresql+psycopg2", and only "postgres" is supported' in log
    assert "Begin AIRFLOW_CONN_OPERATIONAL_DB with postgresql://" in log
    assert "Unknown hook" not in log


def test_the_sales_catch_up_from_the_configured_month_without_an_end_date_and_the_features_are_looked_at_once_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    from company_data.schedule import MonthlyTimetable

    monkeypatch.setenv("SALES_FIRST_MONTH", "2021-05")
    monkeypatch.setenv("SALES_LAST_MONTH", "2022-02")
    sales = DagBag(str(ROOT / "dags" / f"{SALES}.py")).dags[SALES]
    assert isinstance(sales.timetable, MonthlyTimetable)
    assert sales.catchup
    assert sales.end_date is None
    # A run before it would have no tasks, and would succeed.
    assert [dag(name).start_date for name in (CUSTOMERS, FEATURES, MAINTENANCE)] == [None] * 3
    assert sales.start_date == datetime(1900, 1, 1, tzinfo=UTC)
    assert sales.timetable.serialize() == {"first": "2021-05", "last": "2022-02"}
    features = dag(FEATURES)
    assert (features.timetable.timetable.expression, features.catchup) == ("0 0 * * *", False)
