"""Settings of the workflows, each read from the environment here, or in company_data.months, and nowhere else."""

import json
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from company_data.months import first_sales_month, last_sales_month
from company_data.retries import SQL_RETRIES, LoadRetryPolicy

# In the containers, services/settings.py has checked them and written them into this file.
if file := os.environ.get("SETTINGS_FILE"):
    os.environ.update(json.loads(Path(file).read_text()))

DEFAULT_SOURCE_BASE_URL = "https://daredata-technical-challenge-data.s3.amazonaws.com"
DEFAULT_SOURCE_MAX_BYTES = 10_000_000_000
DEFAULT_SALES_DEADLINE_HOURS = "24"
DEFAULT_FEATURE_STORE_MAX_LOSS = "20"
ON_ANOMALY_VALUES = ("protect", "ask", "warn", "ignore")  # the first is the default

# More than there will be runs that wait for a person, so that a waiting run does not keep others from starting.
MAX_ACTIVE_RUNS = 100

# How long a person has to decide on an unusual file.
DECISION_TIME = timedelta(days=7)
MAX_BYTES = 10**18  # the ledger keeps the bytes of a file as bigint
MAX_DEADLINE_HOURS = 1_000_000
MAX_KEEP_DAYS = 1_000_000  # more would come before the first day that PostgreSQL knows

CONNECTION_ID = "operational_db"
SQL_FOLDER = Path(__file__).resolve().parents[2] / "sql"

# The first day of the month whose file a run loads, as SQL and the source's file names write it.
# Templated: the run that starts on 1 February has the interval that starts on 1 January.
FILE_MONTH = "{{ data_interval_start | ds if data_interval_start is defined else '' }}"

# Settings of every connection that a task opens. The role pipeline has the same, and time limits beside them: a pooler
# may drop these.
CONNECTION_SETTINGS = {
    # mle_user may create functions in schema public; an unqualified name must not find them.
    "search_path": "pg_catalog,pg_temp",
    # A policy on a table is an error, and never fewer rows.
    "row_security": "off",
    # Dates are year, month, day: 02/03/2024 is rejected, whatever the server's setting is.
    "DateStyle": "ISO,YMD",
    # What a database or a login may set otherwise, and what would change rows, names, numbers or messages.
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "client_min_messages": "notice",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_deferrable": "off",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
}
CONNECTION_OPTIONS = " ".join(f"-c {name}={value}" for name, value in CONNECTION_SETTINGS.items())

# The configuration that a run of a load may have, as the form of Trigger shows it.
RUN_PARAMETERS = {
    "on_anomaly": Param(
        None,
        type=["null", "string"],
        enum=[None, *ON_ANOMALY_VALUES],
        description="What happens to an unusual file in this run. Without a value, the setting ON_ANOMALY decides.",
    )
}


def require_known_configuration(context: Any) -> None:
    """Stop a run whose configuration has other keys than the parameters of its DAG: Airflow accepts any key.

    Raises:
        AirflowFailException: it has.
    """
    known = sorted(context["dag"].params)
    if unknown := sorted(set(context["dag_run"].conf or {}) - set(known)):
        raise AirflowFailException(
            f"The configuration of the run has {', '.join(unknown)}, which this workflow does not know, so the run was "
            f"stopped before it changed anything. It knows: {', '.join(known) or 'nothing'}. Trigger another run."
        )


TASK_DEFAULTS: dict[str, Any] = {
    "owner": "data team",
    "pre_execute": require_known_configuration,
    # A month is finished before another begins.
    "weight_rule": "upstream",
    "retries": SQL_RETRIES,
    "retry_policy": LoadRetryPolicy(SQL_RETRIES),
    # The pauses after a try whose process was killed, for which Airflow does not ask the policy.
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
    # A source that sends a byte a minute never stalls for as long as the read timeout.
    "execution_timeout": timedelta(hours=1),
    # For SQLExecuteQueryOperator: a file is one transaction, its notices go to the task's log, its rows are dropped.
    "conn_id": CONNECTION_ID,
    "split_statements": True,
    "do_xcom_push": False,
    "hook_params": {
        "enable_log_db_messages": True,
        "options": f"{CONNECTION_OPTIONS} -c application_name={{{{ dag.dag_id }}}}.{{{{ task.task_id }}}}",
    },
}


def source_url(path: str) -> str:
    """Address of a source file: its path below that of SOURCE_BASE_URL, before the query. Credentials included."""
    base = (os.environ.get("SOURCE_BASE_URL") or DEFAULT_SOURCE_BASE_URL).strip().partition("#")[0]
    folder, separator, query = base.partition("?")
    return f"{folder.rstrip('/')}/{path}{separator}{query}"


def check_source_base_url() -> None:
    """Check the form of SOURCE_BASE_URL.

    Raises:
        ValueError: it is not an address with HTTPS. The message does not show it: it may hold a password.
    """
    if not re.match(r"\s*https://[^/?#\s]", os.environ.get("SOURCE_BASE_URL") or DEFAULT_SOURCE_BASE_URL, re.I):
        raise ValueError(
            "SOURCE_BASE_URL does not begin with https:// and a host. Write it as https://HOST/FOLDER, or unset it for "
            "the public bucket."
        )


def source_ca_file() -> Path | None:
    """File of the certificate authorities to trust for the source. It replaces the system's; None: the system's."""
    value = os.environ.get("SOURCE_CA_FILE")
    return Path(value) if value else None


def source_max_bytes() -> int:
    """Bytes that a source file may have at most, decompressed.

    Raises:
        ValueError: SOURCE_MAX_BYTES is not a whole number of bytes above 0.
    """
    value = os.environ.get("SOURCE_MAX_BYTES") or str(DEFAULT_SOURCE_MAX_BYTES)
    if not _is_whole(value, 1, MAX_BYTES):
        raise ValueError(
            f'SOURCE_MAX_BYTES is "{value}", which is not a whole number of bytes above 0. Write it as '
            f"{DEFAULT_SOURCE_MAX_BYTES}, or unset it for that number."
        )
    return int(value)


def notify_email() -> str | None:
    """E-mail addresses that are notified of failed and overdue loads, separated by commas; none by default.

    Raises:
        ValueError: NOTIFY_EMAIL has something else than addresses.
    """
    addresses = os.environ.get("NOTIFY_EMAIL") or None
    if addresses and not all(re.fullmatch(r"[^@\s]+@[^@\s]+", each.strip()) for each in addresses.split(",")):
        raise ValueError(
            f'NOTIFY_EMAIL is "{addresses}", which is not a list of addresses. Write it as one@example.org,two@example.org.'
        )
    return addresses


def check_mail_server() -> None:
    """Check the form of AIRFLOW_CONN_SMTP_DEFAULT, which Airflow reads.

    Raises:
        ValueError: it is not a connection of a mail server. The message does not show it: it may hold a password.
    """
    if not (os.environ.get("AIRFLOW_CONN_SMTP_DEFAULT") or "{").startswith(("smtp://", "{")):
        raise ValueError(
            "AIRFLOW_CONN_SMTP_DEFAULT does not begin with smtp://. Write it as smtp://USER:PASSWORD@HOST:587/?…."
        )


def notify_webhook_url() -> str | None:
    """Webhook that is notified of failed and overdue loads; none by default.

    Raises:
        ValueError: NOTIFY_WEBHOOK_URL is not an HTTP address. The message does not show it: it may hold a secret.
    """
    url = os.environ.get("NOTIFY_WEBHOOK_URL") or None
    if url and not url.startswith(("https://", "http://")):
        raise ValueError(
            "NOTIFY_WEBHOOK_URL begins with neither https:// nor http://, so no notification can be sent to it. "
            "Correct it, or unset it to send none."
        )
    return url


def on_anomaly(of_run: object = None) -> str:
    """What happens to a file that is unusual, compared with those that are loaded; see LoadApprovalOperator.

    Args:
        of_run: the value of a source, or in the configuration of a run, which overrides the setting.

    Raises:
        ValueError: the value is none of ON_ANOMALY_VALUES.
    """
    value = str(of_run or os.environ.get("ON_ANOMALY") or ON_ANOMALY_VALUES[0])
    if value not in ON_ANOMALY_VALUES:
        raise ValueError(f'ON_ANOMALY is "{value}". Write it as one of: {", ".join(ON_ANOMALY_VALUES)}.')
    return value


def asks_a_person(mode: str, *, replaces_rows: bool) -> bool:
    """Whether a person is asked about an unusual file, by the value of on_anomaly."""
    return mode == "ask" or (mode == "protect" and replaces_rows)


def sales_deadline() -> str:
    """Time after the end of a month from which on it is overdue, as an interval of PostgreSQL.

    Raises:
        ValueError: SALES_DEADLINE_HOURS is not a number of hours above 0.
    """
    value = os.environ.get("SALES_DEADLINE_HOURS") or DEFAULT_SALES_DEADLINE_HOURS
    try:
        hours = float(value)
    except ValueError:
        hours = 0
    if not 0 < hours < MAX_DEADLINE_HOURS:
        raise ValueError(
            f'SALES_DEADLINE_HOURS is "{value}", which is not a number of hours above 0. Write it as 24, or 1.5.'
        )
    return f"{hours} hours"


def feature_history_keep_for() -> str:
    """How long rows of feature_history are kept after they were superseded, as an interval of PostgreSQL.

    Raises:
        ValueError: FEATURE_HISTORY_KEEP_DAYS is not a whole number of days above 0.
    """
    value = os.environ.get("FEATURE_HISTORY_KEEP_DAYS") or ""
    if value and not _is_whole(value, 1, MAX_KEEP_DAYS):
        raise ValueError(
            f'FEATURE_HISTORY_KEEP_DAYS is "{value}", which is not a whole number of days above 0. Write it as 730, or '
            "unset it to keep all rows."
        )
    return f"{value} days" if value else "infinity"


def feature_store_max_loss() -> str:
    """Clients in percent that a rebuild of the features may lose without a person's approval of the files.

    Raises:
        ValueError: FEATURE_STORE_MAX_LOSS is not a whole number from 0 to 100.
    """
    value = os.environ.get("FEATURE_STORE_MAX_LOSS") or DEFAULT_FEATURE_STORE_MAX_LOSS
    if not _is_whole(value, 0, 100):
        raise ValueError(
            f'FEATURE_STORE_MAX_LOSS is "{value}", which is not a whole number of percent from 0 to 100. Write it as '
            f"{DEFAULT_FEATURE_STORE_MAX_LOSS}, or unset it for that number."
        )
    return value


def _is_whole(value: str, least: int, most: int) -> bool:
    """Whether a text is a whole number from least to most, without a sign."""
    return bool(re.fullmatch("[0-9]{1,19}", value)) and least <= int(value) <= most


def check_settings() -> None:
    """Read every setting, so that a wrong one is named before anything runs.

    Raises:
        ValueError: settings are wrong; the message has the name and the form of each, on a line of its own.
    """
    wrong = []
    for read in CHECKED:
        try:
            read()
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("\n".join(wrong))


def check_sales_months() -> None:
    """Check that the first month is not after the last one.

    Raises:
        ValueError: it is, or one of them is not a month.
    """
    first, last = first_sales_month(), last_sales_month()
    if last and last < first:
        raise ValueError(
            f"SALES_LAST_MONTH ({last:%Y-%m}) is before SALES_FIRST_MONTH ({first:%Y-%m}), so there is no month to load. "
            "Correct one of them."
        )


CHECKED: tuple[Callable[[], object], ...] = (
    check_source_base_url,
    source_max_bytes,
    check_sales_months,
    notify_email,
    notify_webhook_url,
    check_mail_server,
    on_anomaly,
    sales_deadline,
    feature_history_keep_for,
    feature_store_max_loss,
)


check_settings()
