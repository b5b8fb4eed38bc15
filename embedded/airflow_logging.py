"""Airflow's logging in the embedded run, where no server for logs runs: without a traceback each time it is missed.

The API server reads a running task's log from the disk, and then asks such a server for the same lines (Airflow 3.3.2).
"""

from typing import Any

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG

LOGGING_CONFIG: dict[str, Any] = {
    **DEFAULT_LOGGING_CONFIG,
    "loggers": {
        **DEFAULT_LOGGING_CONFIG["loggers"],
        "airflow.utils.log.file_task_handler": {"level": "CRITICAL"},
    },
}
