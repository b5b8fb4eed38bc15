"""Runs of Airflow that a test takes on step by step: what its scheduler, and a person in its UI, do to a run."""

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pendulum
from airflow.sdk.definitions.dag import _run_task
from airflow.utils.session import create_session
from conftest import ROOT

_numbers = itertools.count(1)


@cache
def dag_bag() -> Any:
    """The DAG files, read once."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag

    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    manager.sync_bundles_to_db()
    [bundle] = manager.get_all_dag_bundles()
    bag = BundleDagBag(dag_folder=ROOT / "dags", bundle_path=bundle.path, bundle_name=bundle.name)
    assert bag.import_errors == {}
    return bag


def scheduled_dag(dag_id: str) -> Any:
    """The DAG as the scheduler has it: from Airflow's database, where it is recorded if it is not there."""
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models.serialized_dag import SerializedDagModel

    for _ in range(2):
        with create_session() as session:
            latest = session.scalar(SerializedDagModel.latest_item_select_object(dag_id))  # type: ignore[no-untyped-call]
            if latest is not None:
                return latest.dag
        sync_bag_to_db(dag_bag(), dag_bag().bundle_name, None)
    raise LookupError(dag_id)


def run_dag(dag_id: str, month: str | None = None, retries: int = 0, **conf: object) -> str:
    """Run a DAG to its end; returns the state of the run. The arguments are those of AirflowRun."""
    return AirflowRun(dag_id, month, retries, **conf).go_on()


class AirflowRun:
    """One run of a DAG."""

    def __init__(self, dag_id: str, month: str | None = None, retries: int = 0, **conf: object) -> None:
        """Create a run with a configuration, for a month (YYYY-MM) or a data interval without length."""
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        self.dag = dag_bag().dags[dag_id]
        self.run_id = f"manual__{month or dag_id}__{next(_numbers)}"
        self.states: dict[str, str | None] = {}  # by task
        self.before: dict[str, Callable[[], object]] = {}  # what happens before the next try of a task
        begin = pendulum.instance(datetime.strptime(month or "2024-01", "%Y-%m").replace(tzinfo=UTC))
        end = begin.add(months=1)
        self._scheduled_dag = scheduled_dag(dag_id)
        with create_session() as session:
            run = self._scheduled_dag.create_dagrun(
                run_id=self.run_id,
                logical_date=end.add(seconds=next(_numbers)),
                data_interval=(begin if month else end, end),
                run_after=end,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                conf=conf,
                state="running",
                session=session,
            )
            for instance in run.get_task_instances(session=session):
                instance.max_tries = retries

    def go_on(self) -> str:
        """Run every task that can run; returns the state of the run, which is running if it waits for a person."""
        with create_session() as session:
            run = self._row(session)
            while True:
                session.expire_all()
                ready, _ = run.update_state(session=session)
                for instance in ready:
                    instance.try_number += 1
                    instance.state = "scheduled"
                session.commit()
                instances = run.get_task_instances(session=session)
                self.states = {instance.task_id: instance.state for instance in instances}
                if run.state != "running" or set(self.states.values()) <= {None, "success", "awaiting_input"}:
                    return str(run.state)
                if not ready:
                    time.sleep(0.05)  # in the pause before a retry
                for instance in instances:
                    if instance.state == "scheduled":
                        self.before.pop(instance.task_id, lambda: None)()
                        _run_task(ti=instance, task=self.dag.task_dict[instance.task_id])

    def answer(self, option: str) -> str:
        """Answer the question of the run, as Airflow's API does, and go on; returns the state of the run.

        Args:
            option: the answer, or how it begins.
        """
        from airflow.models.trigger import handle_event_submit
        from airflow.triggers.base import TriggerEvent

        with create_session() as session:
            instance, question = self._question(session)
            question.responded_by = {"id": "1", "name": "a person"}
            question.responded_at = datetime.now(UTC)
            question.chosen_options = [next((each for each in question.options if each.startswith(option)), option)]
            event = TriggerEvent(question.as_resume_event_payload())  # type: ignore[no-untyped-call]
            handle_event_submit(event, task_instance=instance, session=session)
        return self.go_on()

    def question(self) -> str:
        """What the person is asked."""
        with create_session() as session:
            return str(self._question(session)[1].body)

    def fail(self) -> None:
        """Mark the run as failed, as a person does in the UI."""
        from airflow.api.common.mark_tasks import set_dag_run_state_to_failed

        set_dag_run_state_to_failed(dag=self._scheduled_dag, run_id=self.run_id, commit=True)

    def mark_as_success(self, task: str) -> str:
        """Mark a task as success, as a person does in the UI, and go on; returns the state of the run."""
        with create_session() as session:
            for instance in self._row(session).get_task_instances(session=session):
                if instance.task_id == task or instance.state == "upstream_failed":
                    instance.state = "success" if instance.task_id == task else None
            self._row(session).state = "running"
        return self.go_on()

    def clear(self, *tasks: str, downstream: bool = True) -> str:
        """Clear tasks, with those after them, or the whole run, and go on; returns the state of the run."""
        chosen = self._scheduled_dag.partial_subset(
            tasks or self.states, include_upstream=False, include_downstream=downstream
        )
        with create_session() as session:
            self._scheduled_dag.clear(run_id=self.run_id, task_ids=list(chosen.task_dict), session=session)
            self._row(session).state = "running"
        return self.go_on()

    def _row(self, session: Any) -> Any:
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        run = session.scalar(select(DagRun).where(DagRun.run_id == self.run_id))
        run.dag = self._scheduled_dag
        return run

    def _question(self, session: Any) -> tuple[Any, Any]:
        """The task that waits for a person, and Airflow's row of its question."""
        from airflow.models.hitl import HITLDetail
        from sqlalchemy import select

        [instance] = self._row(session).get_task_instances(state=["awaiting_input"], session=session)
        return instance, session.scalar(select(HITLDetail).where(HITLDetail.ti_id == instance.id))
