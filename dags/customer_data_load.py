"""### Loads the customer files, exactly as they are

**Owns** `customer_profiles`, `customer_activity` and `labels`, all of them. The three files are staged side by
side, checked, and published in one transaction: nobody reads old profiles beside new labels.

**Fires** once by itself. Trigger it again when the files have changed. Publishing starts `feature_store`.

**When … fails**

| task | it means | what to do |
| --- | --- | --- |
| `stage_…` | the file could not be fetched, or its header or a value is wrong; the log names file, line and value. Or somebody looks at staging for long, and the lock was not given | mend the file or the network, then clear the task and what follows it |
| `check_customer_data` | the files were read, but contradict themselves; the rows are in schema `staging` | have the file mended, then clear the whole run |
| `publish_customer_data` | another run staged the files since, or a lock was not given | clear the whole run |
| `empty_staging` | a lock was not given; the tables are published | clear the task |

Whatever failed, the published tables are as they were before.
"""

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset

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
    default_args=TASK_DEFAULTS,
    tags=["customer"],
):
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
