"""### Removes what accumulates and looks for what is overdue or was changed, once per day

**Owns** nothing that readers see. The ledger `pipeline.loads` keeps every row.

**Runs** at 03:00 UTC. Trigger it at any time. A load may run at the same time.

#### `find_overdue_months`

Lists the months that ended more than `SALES_DEADLINE_HOURS` ago and of which nothing is loaded, whichever run should
have loaded them: `sql/maintenance/find_overdue_months.sql`.

- **When it fails**, the database was not available.
- **Look** at its log.
- **Then** clear this task with its downstream tasks.

#### `notify_overdue`

Sends the list, if there are such months and a receiver is set, once per day until they are loaded.

- **When it fails**, the task before it has failed. A receiver that is not reached is reported in its log.
- **Look** at the log of that task.
- **Then** clear that task with its downstream tasks.

#### `end_orphaned_questions`

Fails the loads that wait for a person in a run that was deleted or marked as failed, where nobody can answer.

- **When it fails**, the database was not available.
- **Look** at its log.
- **Then** clear this task with its downstream tasks.

#### `delete_old_logs`

Deletes log files of tasks and services that were not written to for 90 days.

- **When it fails**, a file belongs to another account.
- **Look** at its log, which names the file.
- **Then** change its owner, and clear this task with its downstream tasks.

#### `discard_orphans`

Drops the staged tables of loads that are dead: `sql/maintenance/discard_orphans.sql`.

- **When it fails**, the database was not available.
- **Look** at its log.
- **Then** clear this task with its downstream tasks.

#### `compare_tables`

Compares the tables with what was published, file by file: `sql/maintenance/compare_tables.sql`. A file whose rows were
changed by hand is named in the report, and `month_status` and `data_freshness` show it as changed.

- **When it fails**, the database was not available, or a policy hides rows from the pipeline.
- **Look** at its log.
- **Then** clear this task with its downstream tasks.

#### `analyze_months`

Renews the statistics of all months together: `sql/maintenance/analyze_months.sql`.

- **When it fails**, a lock timed out.
- **Look** at its log, and at the sessions in `pg_stat_activity`.
- **Then** clear this task with its downstream tasks.

#### `report`

Writes what the tasks did into one log.

- **When it fails**, a task before it has failed.
- **Look** at the log of that task.
- **Then** clear that task with its downstream tasks.
"""

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG

from company_data.approval import end_orphaned_questions
from company_data.log_files import delete_old_logs, report
from company_data.months import first_sales_month, last_sales_month
from company_data.notifier import CALLBACKS, notify_overdue
from company_data.settings import SQL_FOLDER, TASK_DEFAULTS, sales_deadline
from company_data.task_docs import explain_tasks

with DAG(
    dag_id="maintenance",
    description="Finds overdue months and changed tables, removes old logs and dead staged tables; once per day",
    doc_md=__doc__,
    schedule="0 3 * * *",
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    template_searchpath=str(SQL_FOLDER),
    default_args=TASK_DEFAULTS | CALLBACKS | {"do_xcom_push": True},
    tags=["daily"],
) as dag:
    last = last_sales_month()
    find_overdue_months = SQLExecuteQueryOperator(
        task_id="find_overdue_months",
        sql="maintenance/find_overdue_months.sql",
        parameters={
            "first_month": f"{first_sales_month():%Y-%m-%d}",
            "last_month": f"{last:%Y-%m-%d}" if last else "infinity",
            "deadline": sales_deadline(),
        },
    )
    discard_orphans = SQLExecuteQueryOperator(task_id="discard_orphans", sql="maintenance/discard_orphans.sql")
    compare_tables = SQLExecuteQueryOperator(task_id="compare_tables", sql="maintenance/compare_tables.sql")
    analyze_months = SQLExecuteQueryOperator(task_id="analyze_months", sql="maintenance/analyze_months.sql")

    overdue = find_overdue_months.output
    notify_overdue(overdue)
    report(
        overdue,
        end_orphaned_questions(),
        delete_old_logs(),
        discard_orphans.output,
        compare_tables.output,
        analyze_months.output,
    )

explain_tasks(dag)
