"""Keeps the logs of tasks out of the scheduler's: they are in files, which the UI shows.

LocalExecutor repeats each line of a task with its SQL, and has no setting for it (Airflow 3.3.2).
"""

from typing import Any

from airflow.executors.base_executor import BaseExecutor
from airflow.plugins_manager import AirflowPlugin

_run_workload = BaseExecutor.run_workload


def run_workload(*arguments: Any, **options: Any) -> Any:
    """Run a task whose log goes to its file alone."""
    return _run_workload(*arguments, **{**options, "subprocess_logs_to_stdout": False})


BaseExecutor.run_workload = staticmethod(run_workload)  # type: ignore[method-assign]


class TaskLogs(AirflowPlugin):
    """Adds nothing to Airflow, whose services import plugins when they start."""

    name = "task_logs"
