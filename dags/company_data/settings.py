"""Settings of the workflows, each read from the environment here and nowhere else."""

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

DEFAULT_SOURCE_BASE_URL = "https://daredata-technical-challenge-data.s3.amazonaws.com"
DEFAULT_SALES_FIRST_MONTH = "2020-01"

CONNECTION_ID = "operational_db"
SQL_FOLDER = Path(__file__).resolve().parents[2] / "sql"

# The first day of the month whose sales a run loads, as SQL and the source's file names write it.
# Templated: the run that fires on 1 February has the interval that starts on 1 January.
SALE_MONTH = "{{ data_interval_start | ds }}"

# Bad data stays bad however often it is tried; everything else (network, server, lock) may pass.
RETRY_UNLESS_DATA_IS_BAD = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=f"psycopg.errors.{error}",
            action=RetryAction.FAIL,
            reason="the data or the SQL is wrong; a retry would find the same",
        )
        for error in ("DataError", "IntegrityError", "ProgrammingError")
    ]
)

TASK_DEFAULTS: dict[str, Any] = {
    "owner": "data team",
    "retries": 3,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RETRY_UNLESS_DATA_IS_BAD,
    # For SQLExecuteQueryOperator: a file is one transaction, its notices go to the task's log, its rows nowhere.
    "conn_id": CONNECTION_ID,
    "split_statements": True,
    "do_xcom_push": False,
    "hook_params": {"enable_log_db_messages": True},
}


def source_base_url() -> str:
    """Address below which the source files lie, without a slash at its end."""
    return (os.environ.get("SOURCE_BASE_URL") or DEFAULT_SOURCE_BASE_URL).rstrip("/")


def first_sales_month() -> datetime:
    """Month at which catch-up begins, as its first moment in UTC.

    Raises:
        ValueError: SALES_FIRST_MONTH is not written YYYY-MM.
    """
    return _month("SALES_FIRST_MONTH", os.environ.get("SALES_FIRST_MONTH") or DEFAULT_SALES_FIRST_MONTH)


def last_sales_month() -> datetime | None:
    """Month at which catch-up ends, for a source that has ended; none for one that goes on.

    Raises:
        ValueError: SALES_LAST_MONTH is not written YYYY-MM.
    """
    value = os.environ.get("SALES_LAST_MONTH")
    return _month("SALES_LAST_MONTH", value) if value else None


def _month(setting: str, value: str) -> datetime:
    try:
        return datetime.strptime(value, "%Y-%m").replace(tzinfo=timezone.utc)
    except ValueError:
        raise ValueError(
            f'{setting} is "{value}", which is no month. Sales cannot be scheduled without it; '
            f"write it as YYYY-MM, for example 2020-01."
        ) from None
