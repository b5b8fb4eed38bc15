"""Deletes Airflow's records of old runs: `python -m services.airflow_db_clean`.

AIRFLOW__DATABASE__SQL_ALCHEMY_CONN names the database. No task does it: Airflow keeps that address from tasks.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

# More than a year, so that the run of the same month of last year can be compared.
DAYS_KEPT = 400

OUTPUT_END = 4_000  # characters of the command's output that the error shows


class CleaningError(RuntimeError):
    """A table was not cleaned; the message holds the end of the output."""


def clean_command(before: datetime) -> list[str]:
    """The arguments of `airflow` that delete what is older, and fail if a table could not be cleaned.

    The newest scheduled run of each DAG stays, so that its schedule goes on.
    """
    options = ["--skip-archive", "--error-on-cleanup-failure", "--yes"]
    return ["db", "clean", "--clean-before-timestamp", before.isoformat(), *options]


def clean(days: int = DAYS_KEPT) -> str:
    """Delete the records of runs, tasks and events that are older than some days; returns what was deleted.

    Raises:
        CleaningError: a table was not cleaned.
    """
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *clean_command(datetime.now(UTC) - timedelta(days=days))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CleaningError(
            "airflow db clean did not clean every table, so Airflow's database grows. Fix the cause, and run it again. "
            f"The end of its output:\n{done.stdout[-OUTPUT_END:]}"
        )
    deleted = re.findall(r"Checking table (\w+)\nFound ([1-9]\d*) rows", done.stdout)
    return f"Airflow's database: deleted {', '.join(f'{rows} of {table}' for table, rows in deleted) or 'nothing'}"


def main() -> int:
    """Clean once; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.airflow_db_clean", description=main.__doc__)
    parser.add_argument("--days", type=int, default=DAYS_KEPT, help=f"what is kept; by default {DAYS_KEPT}")
    try:
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M}  {clean(parser.parse_args().days)}", flush=True)
    except CleaningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
