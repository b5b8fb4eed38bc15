"""What accumulates outside the tables: Airflow's records of old runs, and the files of its logs."""

import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import conf, task

from company_data.settings import airflow_database_url

log = logging.getLogger(__name__)

# More than a year, so that the run of the same month of last year can be compared.
RUNS_KEPT = timedelta(days=400)
# The DAG processor logs a few megabytes per day. Why a load failed is in the ledger, which is kept.
LOGS_KEPT = timedelta(days=90)

OUTPUT_END = 4_000  # characters of a command's output that its error shows


@task
def clean_airflow_database() -> str:
    """Delete the records of old runs by `airflow db clean`; returns what it deleted.

    A task cannot use Airflow's database itself, so the command gets its address again.

    Raises:
        RuntimeError: a table was not cleaned; the message holds the end of the output.
    """
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *clean_command(datetime.now(UTC) - RUNS_KEPT)],
        env={**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_database_url()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            "airflow db clean did not clean every table, so Airflow's database grows. The end of its output:\n"
            + done.stdout[-OUTPUT_END:]
        )
    deleted = re.findall(r"Checking table (\w+)\nFound ([1-9]\d*) rows", done.stdout)
    return f"Airflow's database: deleted {', '.join(f'{rows} of {table}' for table, rows in deleted) or 'nothing'}"


def clean_command(before: datetime) -> list[str]:
    """The arguments of `airflow` that delete what is older, and fail if a table could not be cleaned."""
    options = ["--skip-archive", "--error-on-cleanup-failure", "--yes"]
    return ["db", "clean", "--clean-before-timestamp", before.isoformat(), *options]


@task
def delete_old_logs() -> str:
    """Delete log files that were not written to for LOGS_KEPT; returns how many, and how many are left."""
    return delete_files(Path(conf.get("logging", "base_log_folder")), datetime.now(UTC) - LOGS_KEPT)


def delete_files(folder: Path, before: datetime) -> str:
    """Delete the files of a folder that were last written before a moment, and folders that are empty then."""
    deleted, kept, size = 0, 0, 0
    for parent, _, names in os.walk(folder, topdown=False):
        for file in (Path(parent) / name for name in names):
            found = file.lstat()
            if found.st_mtime < before.timestamp():
                file.unlink()
                deleted += 1
            else:
                kept += 1
                size += found.st_size
        if Path(parent) != folder and Path(parent).stat().st_mtime < before.timestamp() and not os.listdir(parent):
            Path(parent).rmdir()
    return f"logs: deleted {deleted} files; {kept} are left, {size / 1e6:,.0f} MB"


@task
def report(*parts: Any) -> str:
    """Put what the tasks returned into one text: each a text, or the one row of a query."""
    text = "\n".join(part if isinstance(part, str) else part[0][0] for part in parts)
    log.info("%s", text)
    return text
