"""Runs the workflows of a checkout without the scheduler: the tasks of its DAGs, rendered and executed by Airflow."""

import os
import sys
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

from bench.answer import answer

AT_ONCE = "at once"
# The files are alike, which is unusual. The second is what a baseline may call it.
PUBLISH_ALL = {"on_anomaly": "ignore", "odd_months": "ignore"}
DAGS: dict[str, Any] = {}  # global, so that the processes of tasks inherit it


def main(checkout: str) -> None:
    """For each line of input, "DAG", "DAG YYYY-MM-DD" or "DAG at once", run all tasks of that DAG."""
    with tempfile.TemporaryDirectory(prefix="bench-airflow-") as home:
        # Airflow reads its settings when it is first imported.
        os.environ |= {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__DAGS_FOLDER": f"{checkout}/dags",
            "AIRFLOW__CORE__PLUGINS_FOLDER": f"{checkout}/plugins",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        from airflow.dag_processing.dagbag import DagBag
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        bag = DagBag(f"{checkout}/dags")
        if bag.import_errors:
            raise RuntimeError(f"The DAGs of {checkout} cannot be imported: {bag.import_errors}")
        DAGS.update(bag.dags)
        PostgresHook("operational_db").get_conn().close()  # imports the driver
        answer(lambda line: {"tasks": run(*line.split(" ", 1))})


def run(dag_id: str, argument: str = "") -> dict[str, float]:
    """Run the tasks of a DAG, one by one or at once as the DAG allows; returns the seconds of each."""
    month = datetime.fromisoformat(f"{argument}T00:00Z") if argument not in ("", AT_ONCE) else None
    execute = partial(run_task, dag_id, month, f"bench {uuid.uuid4()}")
    done: dict[str, tuple[Any, float]] = {}
    waiting = DAGS[dag_id].topological_sort()
    while waiting:
        ready = [task for task in waiting if task.upstream_task_ids <= done.keys()]
        names = [task.task_id for task in ready][: None if argument == AT_ONCE else 1]
        if len(names) == 1:
            done[names[0]] = execute(done, names[0])
        else:
            with ProcessPoolExecutor(len(names), mp_context=get_context("fork")) as pool:
                done |= zip(names, pool.map(partial(execute, done), names), strict=True)
        waiting = [task for task in waiting if task.task_id not in done]
    return {name: seconds for name, (_, seconds) in done.items()}


def run_task(dag_id: str, month: datetime | None, run_id: str, done: dict[str, Any], task_id: str) -> tuple[Any, float]:
    """Execute a task after those that are done; returns its result and its seconds."""
    from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context
    from airflow.utils.types import DagRunType

    begin = time.perf_counter()
    task = DAGS[dag_id].get_task(task_id).prepare_for_execution()
    context: Any = {
        "dag": task.dag,
        "task": task,
        "ti": SimpleNamespace(task_id=task_id, xcom_pull=lambda task_ids, **_: done[task_ids][0]),
        "run_id": run_id,
        "dag_run": SimpleNamespace(
            dag_id=dag_id,
            run_id=run_id,
            run_type=DagRunType.BACKFILL_JOB if month else DagRunType.MANUAL,
            conf=PUBLISH_ALL,
            logical_date=month,
            data_interval_start=month,
            data_interval_end=month and (month + timedelta(days=31)).replace(day=1),
        ),
        "data_interval_start": month,
        "outlet_events": OutletEventAccessors(),
        "task_state_store": {},
    }
    task.render_template_fields(context)
    with set_current_context(context):
        result = task.execute(context)
    return result, time.perf_counter() - begin


if __name__ == "__main__":
    main(*sys.argv[1:])
