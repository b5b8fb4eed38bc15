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
from conftest import ROOT, month_after

pytestmark = pytest.mark.slow

SALES_DAG = "sales_load_and_aggregation"
FIRST = pendulum.datetime(2023, 11, 1)


@cache
def read_files(last_month: str | None) -> Any:
    """The DAG files, read with this SALES_LAST_MONTH in the environment."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag

    assert os.environ.get("SALES_LAST_MONTH") == last_month
    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    manager.sync_bundles_to_db()
    [bundle] = manager.get_all_dag_bundles()
    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    assert bag.import_errors == {}
    return bag


def read_dag() -> Any:
    """The DAG as the scheduler has it, taken from Airflow's database."""
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.session import create_session

    bag = read_files(os.environ.get("SALES_LAST_MONTH"))
    sync_bag_to_db(bag, bag.bundle_name, None)
    with create_session() as session:
        latest = session.scalar(SerializedDagModel.latest_item_select_object(SALES_DAG))  # type: ignore[no-untyped-call]
        assert latest is not None
        return latest.dag


@pytest.fixture
def sales_dag(airflow: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The DAG. Runs and versions of all DAGs are deleted before and after the test."""
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
    delete_all()
    yield read_dag()
    delete_all()


@pytest.fixture
def ended(sales_dag: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The DAG of a source that has ended with February 2024."""
    monkeypatch.setenv("SALES_LAST_MONTH", "2024-02")
    return read_dag()


@pytest.fixture
def client(sales_dag: Any) -> Any:
    """Airflow's API with an administrator logged in."""
    return api()


@cache
def api() -> Any:
    from airflow.api_fastapi.app import create_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    app = create_app(apps="core")
    token = app.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username="airflow", role="ADMIN"))
    return TestClient(app, headers={"Authorization": f"Bearer {token}"})


def runs() -> dict[str, tuple[str, str]]:
    """State and type of each run of the DAG, by its name."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(DagRun).where(DagRun.dag_id == SALES_DAG)).all()
        return {run.run_id: (str(run.state), str(run.run_type)) for run in found}


def tasks(run_id: str) -> int:
    """Number of tasks that Airflow created in a run; 0 in one whose date it considers outside the DAG's dates."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    with create_session() as session:
        found = select(func.count()).select_from(TaskInstance).where(TaskInstance.run_id == run_id)
        return session.scalar(found) or 0


def backfill(first: str, last: str) -> None:
    """What the UI's form and `airflow backfill create` do."""
    from airflow.models.backfill import ReprocessBehavior, _create_backfill

    _create_backfill(
        dag_id=SALES_DAG,
        from_date=pendulum.from_format(first, "YYYY-MM-DD", tz="UTC"),
        to_date=pendulum.from_format(last, "YYYY-MM-DD", tz="UTC"),
        max_active_runs=3,
        reverse=False,
        dag_run_conf=None,
        triggering_user_name=None,
        reprocess_behavior=ReprocessBehavior.COMPLETED,
    )


def create_run(dag: Any, run_id: str, month: str, state: str) -> None:
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    fires = pendulum.instance(month_after(month))
    with create_session() as session:
        dag.create_dagrun(
            run_id=run_id,
            logical_date=fires.subtract(months=1),
            data_interval=(fires.subtract(months=1), fires),
            run_after=fires,
            run_type=DagRunType.SCHEDULED,
            triggered_by=DagRunTriggeredByType.TIMETABLE,
            state=state,
            session=session,
        )


@pytest.mark.parametrize(
    ("fires", "month"), [("2024-01-01", "2023-12"), ("2024-03-01", "2024-02"), ("2025-03-01", "2025-02")]
)
def test_a_run_is_named_by_the_month_of_its_data(sales_dag: Any, fires: str, month: str) -> None:
    from airflow.timetables.base import DataInterval
    from airflow.utils.types import DagRunType

    end = pendulum.from_format(fires, "YYYY-MM-DD", tz="UTC")
    name = sales_dag.timetable.generate_run_id(
        run_type=DagRunType.SCHEDULED, run_after=end, data_interval=DataInterval(end.subtract(months=1), end)
    )
    assert name == f"scheduled__{month}"
    assert DagRunType.from_run_id(name) == DagRunType.SCHEDULED


def test_the_schedule_gives_the_same_months_as_airflows_own(sales_dag: Any) -> None:
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
                for each in (sales_dag.timetable, expected)
            )
            assert found == wanted
            assert found is not None
            last = found.data_interval


def test_the_schedule_ends_with_the_last_month(ended: Any) -> None:
    months = [info.data_interval.start.format("YYYY-MM") for info in ended.iter_dagrun_infos_between(FIRST, None)]
    assert months == ["2023-11", "2023-12", "2024-01", "2024-02"]


def test_the_ui_shows_the_schedule_in_words(sales_dag: Any) -> None:
    assert sales_dag.timetable.summary == "monthly (UTC)"
    assert sales_dag.timetable.description == "At the start of each month (UTC), for the month before"


def test_a_backfill_keeps_the_names_of_runs_that_exist(sales_dag: Any) -> None:
    create_run(sales_dag, "scheduled__2024-02", "2024-02", "success")
    # The name before runs were named by month.
    create_run(sales_dag, "scheduled__2024-04-01T00:00:00+00:00", "2024-03", "failed")
    backfill("2024-01-01", "2024-04-01")
    # Airflow names a new run of a backfill by the day after its month.
    assert runs() == {
        "backfill__2024-02-01T00:00:00+00:00": ("queued", "backfill"),
        "scheduled__2024-02": ("queued", "backfill"),
        "scheduled__2024-04-01T00:00:00+00:00": ("queued", "backfill"),
        "backfill__2024-05-01T00:00:00+00:00": ("queued", "backfill"),
    }


def test_a_backfill_loads_months_that_are_not_scheduled(ended: Any) -> None:
    backfill("2023-10-01", "2024-03-01")
    assert [tasks(run) for run in runs()] == [len(ended.tasks)] * 6


def test_the_form_for_backfills_is_open(sales_dag: Any) -> None:
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    with create_session() as session:
        model = session.get(DagModel, SALES_DAG)
        assert model is not None
        # The UI disables the button that opens the form if manual runs are not allowed; None allows all types.
        assert model.allowed_run_types is None


def trigger(client: Any, logical_date: str | None, **fields: Any) -> Any:
    """What the UI's form sends."""
    return client.post(f"/api/v2/dags/{SALES_DAG}/dagRuns", json={"logical_date": logical_date, **fields})


def midnight(month: str) -> str:
    return f"{month}-01T00:00:00Z"


def test_a_trigger_with_the_date_that_the_form_offers_loads_the_last_whole_month(sales_dag: Any, client: Any) -> None:
    now = pendulum.now("UTC")
    month = now.start_of("month").subtract(months=1)
    answer = trigger(client, now.isoformat())
    assert answer.status_code == 200, answer.text
    run = answer.json()
    assert run["dag_run_id"].startswith(f"manual__{month:%Y-%m}__")
    assert run["data_interval_start"] == f"{month:%Y-%m-%dT%H:%M:%SZ}"
    assert tasks(run["dag_run_id"]) == len(sales_dag.tasks)


@pytest.mark.parametrize(
    ("logical_date", "month"),
    [
        ("2024-02-01T00:00:00Z", "2024-01"),
        ("2024-02-29T23:59:59.999Z", "2024-01"),
        ("2024-03-01T00:00:00+01:00", "2024-01"),
        ("2023-12-24T12:00:00Z", "2023-11"),
        ("2024-03-31T12:00:00Z", "2024-02"),
    ],
)
def test_a_trigger_with_a_date_loads_the_month_before_it(
    ended: Any, client: Any, logical_date: str, month: str
) -> None:
    """Also the last month of a source that has ended, whose date lies after that month."""
    run = trigger(client, logical_date).json()
    assert run["dag_run_id"].startswith(f"manual__{month}__")
    assert run["data_interval_start"] == midnight(month)
    assert tasks(run["dag_run_id"]) == len(ended.tasks)


def test_a_month_can_be_triggered_again(sales_dag: Any, client: Any) -> None:
    for day in (5, 6):
        assert trigger(client, f"2024-02-{day:02}T00:00:00Z").status_code == 200
    assert len(runs()) == 2
    assert all(name.startswith("manual__2024-01__") for name in runs())


@pytest.mark.parametrize(
    ("logical_date", "fields", "reason"),
    [
        (None, {}, r"no logical date.*Set a logical date: the run loads the last whole month before it.*Backfill"),
        ("2099-01-05T00:00:00Z", {}, r"2098-12 has not ended.*Set an earlier logical date"),
        (
            "2023-11-30T00:00:00Z",
            {},
            r"2023-10 is not scheduled: .* from 2023-11 \(SALES_FIRST_MONTH\) to 2024-02 .*Backfill",
        ),
        ("2024-04-01T00:00:00Z", {}, r"2024-03 is not scheduled: .* to 2024-02 \(SALES_LAST_MONTH\).*Backfill"),
        (
            "2024-02-05T00:00:00Z",
            {"data_interval_start": "2024-01-01T00:00:00Z", "data_interval_end": "2024-01-08T00:00:00Z"},
            r"is not one whole month \(UTC\).*Set only a logical date",
        ),
    ],
    ids=["without a date", "month not ended", "before the first month", "after the last month", "a week"],
)
def test_a_trigger_without_a_month_to_load_is_rejected_with_what_to_do(
    ended: Any, client: Any, logical_date: str | None, fields: dict[str, str], reason: str
) -> None:
    answer = trigger(client, logical_date, **fields)
    assert answer.status_code == 400
    assert re.search(reason, answer.json()["detail"])
    assert runs() == {}


def test_the_command_line_shows_why_a_trigger_is_rejected(sales_dag: Any) -> None:
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.utils.types import DagRunTriggeredByType

    with pytest.raises(ValueError, match="Set a logical date"):
        trigger_dag(SALES_DAG, triggered_by=DagRunTriggeredByType.CLI)
    assert runs() == {}


def test_without_the_plugin_the_dag_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import company_data.schedule"],
        env={"PYTHONPATH": str(ROOT / "dags")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Set AIRFLOW__CORE__PLUGINS_FOLDER to this project's folder plugins" in done.stderr
