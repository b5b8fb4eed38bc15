"""### Rebuilds the feature history and the feature store

**Owns** `feature_history`: the features of every client that has a profile, an activity and a label, on every day, and
when they were known; and `feature_store`: the last row of each client.

**Fires** by itself whenever `customer_data_load` has published. Trigger it to rebuild the tables from the customer
tables as they are. Only clients that have changed are written.

#### `replace_feature_store`

Compares the tables with what they should be and writes the difference:
`sql/feature_store/replace_feature_store.sql`. Its log says how many clients were left out, and why.

- **When it fails**, a lock timed out, or another table refers to a client that is no longer in the files. The tables
  stay as they were.
- **Look** at its log.
- **Then** fix the cause, and clear the run.
"""

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset

from company_data.docs import explain_tasks
from company_data.notifier import LoadNotifier
from company_data.settings import SQL_FOLDER, TASK_DEFAULTS, feature_history_keep_days

with DAG(
    dag_id="feature_store",
    description="The features of each client, on each day and now; whenever customer data has been published",
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
        parameters={"keep_days": feature_history_keep_days()},
        outlets=[Asset("feature_history"), Asset("feature_store")],
    )

explain_tasks(dag)
