"""The schedule of the sales: the months are Airflow's own, the runs are named by them, and Trigger loads a month."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pendulum
import pytest
from conftest import ROOT
from support.airflow_runs import dag_bag, scheduled_dag
from support.steps import SALES

pytestmark = pytest.mark.slow


@cache
def read_files(last_month: str | None) -> Any:
    """The DAG files, read with this SALES_LAST_MONTH in the environment."""
    assert os.environ.get("SALES_LAST_MONTH") == last_month
    return dag_bag.__wrapped__()


@pytest.fixture
def ended(airflow: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The DAG of a source that has ended with February 2024, as the scheduler has it.

    Runs and versions of all DAGs are deleted before and after the test.
    """
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models.backfill import Backfill, BackfillDagRun
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    def delete_all() -> None:
        with create_session() as session:
            for table in (BackfillDagRun, DagRun, Backfill, DagVersion):
                session.execute(delete(table))

    # Seconds for which Airflow keeps a DAG in its database although its file has changed.
    monkeypatch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")
    monkeypatch.setenv("SALES_LAST_MONTH", "2024-02")
    delete_all()
    bag = read_files("2024-02")
    sync_bag_to_db(bag, bag.bundle_name, None)
    yield scheduled_dag(SALES)
    delete_all()


def runs() -> dict[str, tuple[str, str, int]]:
    """State, type and number of tasks of each run; Airflow makes no tasks at a date that it finds outside the DAG's."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(DagRun).where(DagRun.dag_id == SALES)).all()
        return {run.run_id: (str(run.state), str(run.run_type), len(run.task_instances)) for run in found}


def test_the_schedule_gives_the_same_months_as_airflows_own_and_ends_with_the_last_month(ended: Any) -> None:
    from airflow.timetables.base import TimeRestriction
    from airflow.timetables.interval import CronDataIntervalTimetable

    expected = CronDataIntervalTimetable("@monthly", timezone="UTC")
    first = pendulum.datetime(2019, 12, 15)
    for catchup in (True, False):
        restriction = TimeRestriction(earliest=first, latest=pendulum.datetime(2040, 1, 1), catchup=catchup)
        last = None
        for _ in range(30):
            found, wanted = (
                each.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
                for each in (ended.timetable, expected)
            )
            assert found == wanted
            assert found is not None
            last = found.data_interval
    scheduled = ended.iter_dagrun_infos_between(pendulum.datetime(2023, 11, 1), None)
    months = [info.data_interval.start.format("YYYY-MM") for info in scheduled]
    assert months == ["2023-11", "2023-12", "2024-01", "2024-02"]


@cache
def client() -> Any:
    """Airflow's API with an administrator logged in."""
    from airflow.api_fastapi.app import create_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    app = create_app(apps="core")
    token = app.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username="airflow", role="ADMIN"))
    return TestClient(app, headers={"Authorization": f"Bearer {token}"})


def trigger(logical_date: str | None, **fields: Any) -> Any:
    """What the UI's form sends."""
    return client().post(f"/api/v2/dags/{SALES}/dagRuns", json={"logical_date": logical_date, **fields})


def backfill(first: str, last: str, behavior: str) -> Any:
    """What the form of a backfill sends, with the first days of months."""
    dates = {"from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z"}
    return client().post("/api/v2/backfills", json={"dag_id": SALES, **dates, "reprocess_behavior": behavior})


def test_a_backfill_loads_months_that_are_not_scheduled_and_its_form_is_open(ended: Any) -> None:
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    assert backfill("2023-10-01", "2024-03-01", "completed").status_code == 200
    assert list(runs().values()) == [("queued", "backfill", len(ended.tasks))] * 6
    with create_session() as session:
        model = session.get(DagModel, SALES)
        assert model is not None
        # The UI disables the button that opens the form if manual runs are not allowed; None allows all types.
        assert model.allowed_run_types is None
    assert ended.timetable.summary == "monthly (UTC)"
    assert ended.timetable.description == "At the start of each month (UTC), for the month before"


REJECTED = {
    "without a date": (None, r"no logical date.*Set a logical date: the run loads the last whole month.*Backfill"),
    "in the future": ("2099-01-05", r"lies in the future.*Set an earlier logical date"),
    # It would take the place of the run of February, and the schedule would stop there.
    "of a scheduled run": (
        "2024-02-01",
        r"is that of the scheduled run of 2024-02.*to load 2024-01, for example 2024-02-01T12:00:00\+00:00\..*Backfill",
    ),
    "too early": (
        "2023-11-30",
        r"2023-10 is not scheduled: .* from 2023-11 \(SALES_FIRST_MONTH\) to 2024-02 .*Backfill",
    ),
    "too late": ("2024-04-01", r"2024-03 is not scheduled: .* to 2024-02 \(SALES_LAST_MONTH\).*Backfill"),
    "a week": ("2024-02-05", r"is not one whole month \(UTC\).*Set only a logical date"),
}
WEEK = {"data_interval_start": "2024-01-01T00:00:00Z", "data_interval_end": "2024-01-08T00:00:00Z"}


def test_a_trigger_loads_the_last_whole_month_before_its_date_or_is_rejected_with_what_to_do(ended: Any) -> None:
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.utils.types import DagRunTriggeredByType

    for case, (day, reason) in REJECTED.items():
        answer = trigger(f"{day}T00:00:00Z" if day else None, **(WEEK if case == "a week" else {}))
        assert answer.status_code == 400, case
        assert re.search(reason, answer.json()["detail"]), case
        # Airflow does not ask the timetable for the name of a run that has an id of its own: the first task asks.
        if case not in ("without a date", "a week"):
            assert trigger(f"{day}T00:00:00Z", dag_run_id="mine").status_code == 400, case
    with pytest.raises(ValueError, match="Set a logical date"):
        trigger_dag(SALES, triggered_by=DagRunTriggeredByType.CLI)
    assert runs() == {}

    # Also the last month of a source that has ended, whose date lies after that month.
    for logical_date, month in (
        ("2024-02-01T00:00:01Z", "2024-01"),
        ("2024-02-29T23:59:59.999Z", "2024-01"),
        ("2024-03-01T00:00:00+01:00", "2024-01"),
        ("2023-12-24T12:00:00Z", "2023-11"),
        ("2024-03-31T12:00:00Z", "2024-02"),
    ):
        run = trigger(logical_date).json()
        assert run["dag_run_id"].startswith(f"manual__{month}__")
        assert run["data_interval_start"] == f"{month}-01T00:00:00Z"
    assert list(runs().values()) == [("queued", "manual", len(ended.tasks))] * 5

    # A date that a run has, also for a run with an id of its own. A backfill loads its month: the run that the first
    # one makes is queued, and so left alone by the others.
    for fields in ({}, {"dag_run_id": "mine"}):
        answer = trigger("2024-02-01T00:00:01Z", **fields)
        assert answer.status_code == 409
        assert re.search("A run with this logical date .* exists .* a minute later", answer.json()["detail"])
    for behavior in ("none", "failed", "completed"):
        answer = backfill("2024-01-01", "2024-01-01", behavior)
        assert answer.status_code == 200, answer.json()
        assert client().put(f"/api/v2/backfills/{answer.json()['id']}/cancel").status_code == 200
    assert sorted(kind for _, kind, _ in runs().values()) == ["backfill", *["manual"] * 5]


def test_without_the_plugin_the_dag_says_what_is_missing() -> None:
    command = [sys.executable, "-c", "import company_data.schedule"]
    environment = {"PYTHONPATH": str(ROOT / "dags")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Set AIRFLOW__CORE__PLUGINS_FOLDER to this project's folder plugins" in done.stderr
