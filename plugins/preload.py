"""Loads what every task imports when the scheduler starts, so that each task's process, a copy of it, finds it there.

Without this a task spends most of its second on imports. Only libraries: our own modules are read anew by each task.
"""

import airflow.dag_processing.dagbag
import airflow.providers.common.sql.operators.sql
import airflow.providers.postgres.hooks.postgres
import airflow.sdk.execution_time.task_runner  # noqa: F401
from airflow.plugins_manager import AirflowPlugin


class Preload(AirflowPlugin):
    """Adds nothing to Airflow: a plugin is what Airflow imports before it starts tasks."""

    name = "preload"
