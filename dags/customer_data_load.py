"""### Loads the customer files, exactly as they are

**Owns** `customer_profiles`, `customer_activity` and `labels`, all of them. The three files are staged side by
side, checked, and published in one transaction: nobody reads old profiles beside new labels.

**Fires** once by itself. Trigger it again when the files have changed. Publishing starts `feature_store`.

Whatever fails, the published tables are as they were before; after `publish_customer_data` they are the new ones.

#### `stage_customer_profiles`, `stage_customer_activity`, `stage_labels`

Each copies its file into its table in schema `staging`.

- **When one fails**, the file could not be fetched, or its header or a value is wrong. Or somebody looked at `staging`
  for long, and the lock was not given.
- **Look** at its log, which names file, line and value. `pipeline.file_loads` lists every attempt.
- **Then** have the file or the network mended, and clear this task with what follows it.

#### `check_customer_data`

Judges the three staged files: `sql/customer/check_customer_data.sql`.

- **When it fails**, a client has two different profiles or labels, a label is neither 0 nor 1, or the like.
- **Look** at its log for how many rows and the first of them. All are in schema `staging`, and stay there.
- **Then** have the file mended, and clear the whole run: it must be staged again.

#### `publish_customer_data`

Puts the three tables in place of the old ones in one transaction: `sql/customer/publish_customer_data.sql`.

- **When it fails**, another run has staged the files since, or a lock was not given.
- **Look** at its log; for a lock, at who is connected: `pg_stat_activity`.
- **Then** clear the whole run.

#### `empty_staging`

Deletes what is published by now from schema `staging`: `sql/customer/empty_staging.sql`.

- **When it fails**, a lock was not given. Nobody but the next load needs it.
- **Look** at its log.
- **Then** clear this task.
"""

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset, TaskGroup

from company_data.docs import explain_tasks
from company_data.notifier import LoadNotifier
from company_data.settings import SQL_FOLDER, TASK_DEFAULTS, first_sales_month
from company_data.staging import stage_csv

with DAG(
    dag_id="customer_data_load",
    description="Customer profiles, activity and labels, exactly as in their files; once, and again when triggered",
    doc_md=__doc__,
    schedule="@once",
    start_date=first_sales_month(),
    max_active_runs=1,
    is_paused_upon_creation=False,
    template_searchpath=str(SQL_FOLDER),
    default_args=TASK_DEFAULTS | {"on_failure_callback": LoadNotifier()},
    tags=["customer"],
) as dag:
    with TaskGroup("stage", prefix_group_id=False):
        profiles = stage_csv.override(task_id="stage_customer_profiles")("customer_profiles.csv", "customer_profiles")
        activity = stage_csv.override(task_id="stage_customer_activity")("customer_activity.csv", "customer_activity")
        labels = stage_csv.override(task_id="stage_labels")("labels.csv", "labels")

    loads = {"profiles_load": profiles, "activity_load": activity, "labels_load": labels}

    check_customer_data = SQLExecuteQueryOperator(
        task_id="check_customer_data",
        sql="customer/check_customer_data.sql",
        parameters=loads,
        autocommit=True,
    )
    publish_customer_data = SQLExecuteQueryOperator(
        task_id="publish_customer_data",
        sql="customer/publish_customer_data.sql",
        parameters=loads,
        outlets=[Asset("customer_data")],
    )
    empty_staging = SQLExecuteQueryOperator(
        task_id="empty_staging",
        sql="customer/empty_staging.sql",
    )

    [profiles, activity, labels] >> check_customer_data >> publish_customer_data >> empty_staging

explain_tasks(dag)
