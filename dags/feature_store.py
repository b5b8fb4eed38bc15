"""### Rebuilds the feature store

**Owns** `feature_store`: one row for every client that has a profile, an activity and a label, with its latest
activity (the row without `valid_to`; otherwise the one with the greatest `valid_to`; ties go to the latest
`valid_from`).

**Fires** by itself whenever `customer_data_load` has published. Trigger it to rebuild the table from the customer
tables as they are. Only clients that have changed are written.

#### `replace_feature_store`

Compares the table with what it should be and writes the difference:
`sql/feature_store/replace_feature_store.sql`. Its log says how many clients were left out, and why.

- **When it fails**, a lock timed out, or another table refers to a client that is no longer in the files. The table
  stays as it was.
- **Look** at its log.
- **Then** fix the cause, and clear the run.
"""

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset

from company_data.docs import explain_tasks
from company_data.notifier import LoadNotifier
from company_data.settings import SQL_FOLDER, TASK_DEFAULTS

with DAG(
    dag_id="feature_store",
    description="One row per client, with its latest activity; whenever customer data has been published",
    doc_md=__doc__,
    schedule=[Asset("customer_profiles"), Asset("customer_activity"), Asset("labels")],
    max_active_runs=1,
    is_paused_upon_creation=False,
    template_searchpath=str(SQL_FOLDER),
    default_args=TASK_DEFAULTS | {"on_failure_callback": LoadNotifier()},
    tags=["customer", "features"],
) as dag:
    SQLExecuteQueryOperator(
        task_id="replace_feature_store",
        sql="feature_store/replace_feature_store.sql",
        outlets=[Asset("feature_store")],
    )

explain_tasks(dag)
