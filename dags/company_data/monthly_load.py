"""What the workflows of monthly files have in common: the arguments of their DAG, and the tasks from staging to publishing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import TaskGroup

from company_data.approval import LoadApprovalOperator
from company_data.loads import CheckOperator, LoadOperator, assets
from company_data.months import first_sales_month, last_sales_month
from company_data.notifier import CALLBACKS
from company_data.retries import LATE_FOR, STAGING_RETRIES, LoadRetryPolicy
from company_data.schedule import MonthlyTimetable
from company_data.settings import (
    FILE_MONTH,
    MAX_ACTIVE_RUNS,
    RUN_PARAMETERS,
    SQL_FOLDER,
    TASK_DEFAULTS,
)
from company_data.staging import stage_csv

# The limit of each task: of the runs, those that wait for a person or for a late file would use it up.
MONTHS_AT_ONCE = 4

TASKS = """
#### `stage_{table}`

Copies the month's file into a table of its own in schema `staging`. A file that is late is waited for, for a week
after the end of the month.

- **When it fails**, the file could not be fetched, or its header, a value or a date is wrong.
- **Look** at its log, which names file, line and value. `pipeline.loads` lists every attempt.
- **Then** have the file or the network fixed, and clear this task with its downstream tasks.

#### `stage_stores`

Copies `stores.csv` as it is on that day, to check the month against it.

- **When it fails**, the reasons are those of `stage_{table}`, except that a store list is never late.
- **Look** at its log, which names file, line and value.
- **Then** have the file or the network fixed, and clear this task with its downstream tasks. In a run that has
  published its month, clear the whole run: the rows of `stage_{table}` are in the table and cannot be checked again, so
  `check_month` would reject them.

#### `check_month`

Checks what was staged before it is published: `sql/loads/check_month.sql`.

- **When it fails**, `stores.csv` lacks the stores of some rows or has a store with two locations.
- **Look** at its log for the number of rows, the first of them, and the tables in `staging` that keep the rows.
- **Then** have the file fixed, and clear the whole run: it must be staged again.

#### `compare_month`

Compares the month with the months that are loaded: `sql/loads/compare_month.sql`. It says what is unusual, because rows,
days or stores are missing or the amounts are of another size, and decides nothing.

- **When it fails**, the database was not available, or somebody has rejected the month.
- **Look** at its log.
- **Then** clear this task with its downstream tasks; for a rejected month, clear the whole run.

#### `approve_month`

Ends at once if the month is usual. An unusual month that would replace published rows waits for a decision under
**Required Actions**, which shows the figures: **Approve** publishes it, **Reject** fails the run and keeps the old month.
An unusual month of which nothing is published yet is published, and a notification says so. The setting `ON_ANOMALY`
changes this.

- **When it fails**, the month was rejected, which does not change, or nobody decided within a week.
- **Look** at its Required Actions, or at `pipeline.loads`, which keeps who decided.
- **Then** have the file fixed, and clear the whole run.

#### `publish_month`

Publishes the month in one transaction: `sql/{table}/publish_month.sql`. It is skipped if a file of the month that was
requested later is published already.

- **When it fails**, a foreign key refers to a table of sums, a trigger or a policy changed what was inserted, a
  migration changed the table since the file was staged, another run has published the month since it was compared, or
  a lock timed out.
- **Look** at its log; for a lock, at the sessions in `pg_stat_activity`.
- **Then** clear the whole run.
"""


def monthly_dag(table: str, doc: str | None) -> dict[str, Any]:
    """The arguments of a DAG that loads one file per month.

    Args:
        table: as of load_month.
        doc: what the UI says about the workflow; the tasks of load_month are added.
    """
    return {
        "doc_md": f"{doc}{TASKS.format(table=table)}",
        "schedule": MonthlyTimetable(first_sales_month(), last_sales_month()),
        # Before every run: Airflow creates no tasks in one that lies before it, and the run succeeds. The timetable has
        # the first month.
        "start_date": datetime(1900, 1, 1, tzinfo=UTC),
        "catchup": True,
        "max_active_runs": MAX_ACTIVE_RUNS,
        "is_paused_upon_creation": False,
        "params": RUN_PARAMETERS,
        "template_searchpath": str(SQL_FOLDER),
        "default_args": TASK_DEFAULTS | CALLBACKS | {"max_active_tis_per_dag": MONTHS_AT_ONCE},
    }


def load_month(table: str, *, publishes: list[str]) -> None:
    """Create the tasks that load one month of a file.

    Args:
        table: the source, a monthly one of pipeline.sources. sql/<table>/publish_month.sql publishes it.
        publishes: the tables that it changes, each an asset.
    """
    with TaskGroup("stage", prefix_group_id=False):
        may_be_late = LoadRetryPolicy(STAGING_RETRIES, late_for=LATE_FOR)
        staged = stage_csv.override(task_id=f"stage_{table}", retry_policy=may_be_late)(table, FILE_MONTH)
        staged_stores = stage_csv.override(task_id="stage_stores")("stores")
    loads = {"load": staged, "stores_load": staged_stores}

    check_month = CheckOperator(task_id="check_month", sql="loads/check_month.sql", parameters=loads)
    compare_month = LoadOperator(task_id="compare_month", sql="loads/compare_month.sql", parameters={"load": staged})
    # Those that wait for a person would count, too.
    approve_month = LoadApprovalOperator(task_id="approve_month", loads=[staged], max_active_tis_per_dag=None)
    publish_month = LoadOperator(
        task_id="publish_month",
        sql=f"{table}/publish_month.sql",
        parameters={"file_month": FILE_MONTH} | loads,
        autocommit=True,
        outlets=assets(table, *publishes),
    )

    # The file may be waited for, and needs the stores of the day it comes.
    staged >> staged_stores >> check_month >> compare_month >> approve_month >> publish_month
