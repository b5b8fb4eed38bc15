"""The schedule of the sales: the months are Airflow's own, the runs are named by them."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pendulum
import pytest
from conftest import ROOT, month_after

SALES_DAG = "sales_load_and_aggregation"


@pytest.fixture
def sales_dag(airflow: None) -> Iterator[Any]:
    """The DAG as the scheduler has it: read from Airflow's database. Its runs are deleted afterwards."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.backfill import Backfill, BackfillDagRun
    from airflow.models.dagrun import DagRun
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    manager.sync_bundles_to_db()
    [bundle] = manager.get_all_dag_bundles()
    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    assert bag.import_errors == {}

    def delete_runs() -> None:
        with create_session() as session:
            for table in (BackfillDagRun, DagRun, Backfill):
                session.execute(delete(table))

    sync_bag_to_db(bag, bundle.name, bundle.version)
    delete_runs()
    with create_session() as session:
        latest = session.scalar(SerializedDagModel.latest_item_select_object(SALES_DAG))  # type: ignore[no-untyped-call]
        assert latest is not None
        dag = latest.dag
    yield dag
    delete_runs()


def runs() -> dict[str, tuple[str, str]]:
    """State and type of each run of the DAG, by its name."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(DagRun).where(DagRun.dag_id == SALES_DAG)).all()
        return {run.run_id: (str(run.state), str(run.run_type)) for run in found}


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


def test_the_ui_shows_the_schedule_in_words(sales_dag: Any) -> None:
    assert sales_dag.timetable.summary == "monthly (UTC)"
    assert sales_dag.timetable.description == "At the start of each month (UTC), for the month before"


def test_a_backfill_is_named_by_its_months_and_leaves_runs_their_names(sales_dag: Any) -> None:
    create_run(sales_dag, "scheduled__2024-02", "2024-02", "success")
    # As all runs were named before they were named by month.
    create_run(sales_dag, "scheduled__2024-04-01T00:00:00+00:00", "2024-03", "failed")
    backfill("2024-01-01", "2024-04-01")
    assert runs() == {
        "backfill__2024-01": ("queued", "backfill"),
        "scheduled__2024-02": ("queued", "backfill"),
        "scheduled__2024-04-01T00:00:00+00:00": ("queued", "backfill"),
        "backfill__2024-04": ("queued", "backfill"),
    }


def test_the_form_for_backfills_is_open(sales_dag: Any) -> None:
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session

    with create_session() as session:
        model = session.get(DagModel, SALES_DAG)
        assert model is not None
        assert model.allowed_run_types is not None
        # The UI greys the button out, behind which the form is, where runs by hand are not allowed.
        assert {"manual", "backfill"} <= set(model.allowed_run_types)


@pytest.mark.parametrize(
    "asked",
    [{}, {"logical_date": pendulum.datetime(2024, 2, 5)}, {"run_id": "by_hand"}],
    ids=["bare", "dated", "named"],
)
def test_a_run_by_hand_is_refused_and_told_what_to_do_instead(sales_dag: Any, asked: dict[str, Any]) -> None:
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.utils.types import DagRunTriggeredByType

    with pytest.raises(ValueError, match=r"by whole months.*choose Backfill"):
        trigger_dag(SALES_DAG, triggered_by=DagRunTriggeredByType.UI, **asked)
    assert runs() == {}
    assert trigger_dag("customer_data_load", triggered_by=DagRunTriggeredByType.UI, **asked)


def test_without_the_plugin_the_dag_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import company_data.schedule"],
        env={"PYTHONPATH": str(ROOT / "dags")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Set AIRFLOW__CORE__PLUGINS_FOLDER to this project's folder plugins" in done.stderr
