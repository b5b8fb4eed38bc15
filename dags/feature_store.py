"""### Rebuilds the feature history and the feature store

**Owns** `feature_history`: the features of every client that has a profile, an activity and a label, on every day, and
when they were known; and `feature_store`: the last row of each client.

**Runs** by itself whenever `customer_data_load` has published, and once a day (UTC): if the event of a publication
was lost, for example because this DAG was paused, the daily run finds that the tables are stale. Trigger it to rebuild
the tables from the customer tables as they are, also where rows of the features were changed by hand. Only rows that
differ are written.

#### `check_staleness`

Compares the loads that the tables were built from with those that are published: `sql/feature_store/check_staleness.sql`.
If they are the same, both tasks are skipped, except in a run that was triggered by hand; so they are in the daily run
if the rebuild from them was rejected.

- **When it fails**, the database cannot be reached, or the schema lacks a migration.
- **Look** at its log.
- **Then** fix the cause, and clear the run.

#### `refresh_feature_store`

Compares the tables with what they should be and writes the difference, in one transaction:
`sql/feature_store/find_changed_clients.sql`, `sql/feature_store/resolve_days.sql`,
`sql/feature_store/write_difference.sql`. After the commit, `sql/feature_store/require_build.sql` fails if the rebuild
was rejected; otherwise it opens the features to their readers, once. The log says how many clients were left out, and
why.

- **When it fails**, a lock timed out, another table refers to a client that is no longer in the files, or the files
  would remove more clients than `FEATURE_STORE_MAX_LOSS` allows. The tables stay as they were.
- **Look** at its log.
- **Then** fix the cause, and clear the run. Customer files that are corrected and loaded again start a new run.
"""

from typing import Any

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable
from airflow.sdk.exceptions import AirflowSkipException

from company_data.loads import assets, describe_build
from company_data.notifier import CALLBACKS
from company_data.settings import SQL_FOLDER, TASK_DEFAULTS, feature_history_keep_for, feature_store_max_loss
from company_data.task_docs import explain_tasks


def skip_unless_true(cursor: Any) -> None:
    """Skip the task, and with it the tasks that follow, unless the first value of the first row is true.

    Raises:
        AirflowSkipException: it is not.
    """
    (needed,) = cursor.fetchone()
    if not needed:
        raise AirflowSkipException("There is nothing to do.")


with DAG(
    dag_id="feature_store",
    description="The features of each client, on each day and now; whenever customer data has been published",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        assets=assets("customers", "customer_profiles", "customer_activity", "labels"),
        timetable=CronTriggerTimetable("@daily", timezone="UTC"),
    ),
    max_active_runs=1,
    is_paused_upon_creation=False,
    template_searchpath=str(SQL_FOLDER),
    default_args=TASK_DEFAULTS | CALLBACKS,
    tags=["customer", "features"],
) as dag:
    check_staleness = SQLExecuteQueryOperator(
        task_id="check_staleness",
        sql="feature_store/check_staleness.sql",
        parameters={"run_type": "{{ dag_run.run_type.value }}"},
        handler=skip_unless_true,
        requires_result_fetch=True,
    )
    refresh_feature_store = SQLExecuteQueryOperator(
        task_id="refresh_feature_store",
        # A list takes no parameters, so the settings are set for the transaction.
        sql=[
            f"set local pipeline.keep_for = '{feature_history_keep_for()}'",
            f"set local pipeline.max_loss = '{feature_store_max_loss()}'",
            "set local pipeline.run_type = '{{ dag_run.run_type.value }}'",
            "feature_store/find_changed_clients.sql",
            "feature_store/resolve_days.sql",
            "feature_store/write_difference.sql",
            "commit",
            "feature_store/require_build.sql",
        ],
        outlets=assets("features", "feature_history", "feature_store"),
        post_execute=describe_build,
    )

    check_staleness >> refresh_feature_store

explain_tasks(dag)
