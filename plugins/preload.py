"""Loads what every task imports when the scheduler starts, so that each task's process, a copy of it, finds it there.

Without this a task spends most of its second on imports. Only libraries: our own modules are read anew by each task.
"""

from importlib import import_module

from airflow.plugins_manager import AirflowPlugin

for library in (
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.providers.common.sql.operators.sql",
    "airflow.providers.postgres.hooks.postgres",
    "requests",
):
    import_module(library)


class Preload(AirflowPlugin):
    """Adds nothing to Airflow: a plugin is what Airflow imports before it starts tasks."""

    name = "preload"
