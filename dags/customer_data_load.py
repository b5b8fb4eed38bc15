"""### Loads the customer files, exactly as they are

**Owns** `customer_profiles`, `customer_activity` and `labels`. The three files are staged side by side, checked, and
published in one transaction: a reader never sees old profiles with new labels.

**Runs** once by itself. Trigger it again when the files have changed. Publishing starts `feature_store`.

If a task fails, the tables stay as they were, unless `publish_customers` has succeeded.

#### `stage_customer_profiles`, `stage_customer_activity`, `stage_labels`

Each copies its file into a table of its own in schema `staging`.

- **When one fails**, the file could not be fetched, or its header or a value is wrong.
- **Look** at its log, which names file, line and value. `pipeline.loads` lists every attempt.
- **Then** have the file or the network fixed, and clear this task with its downstream tasks. In a run that has
  published, clear the whole run: the rows of the other two are in their tables and cannot be checked again, so
  `check_customers` would reject them.

#### `check_customers`

Checks the three staged files: `sql/customers/check_customers.sql`.

- **When it fails**, a client has two different profiles or labels.
- **Look** at its log for the number of clients, the first of them, and the tables in `staging` that keep the rows.
- **Then** have the file fixed, and clear the whole run: it must be staged again.

#### `compare_customers`

Compares the files with those that are published: `sql/loads/compare_snapshot.sql`. It says what is unusual, because
rows or values are missing, letters or labels have other shares, or profiles lack activities or labels, and decides
nothing.

- **When it fails**, the database was not available, or somebody has rejected the files.
- **Look** at its log.
- **Then** clear this task with its downstream tasks; for rejected files, clear the whole run.

#### `approve_customers`

Ends at once if the files are usual. Unusual files wait for a decision under **Required Actions**, which shows the
figures: **Approve** publishes them, **Reject** fails the run and keeps the old tables.

- **When it fails**, the files were rejected, which does not change, or nobody decided within a week.
- **Look** at its Required Actions, or at `pipeline.loads`, which keeps who decided.
- **Then** have the files fixed, and clear the whole run.

#### `publish_customers`

Replaces the three tables in one transaction: `sql/customers/publish_customers.sql`. It is skipped if
the files of a run that requested the profiles later are published already.

- **When it fails**, a lock timed out, a trigger or a policy changed what was inserted, a migration changed a table
  since the files were staged, or another run has published since they were compared.
- **Look** at its log; for a lock, at the sessions in `pg_stat_activity`.
- **Then** clear the whole run.
"""

from airflow.sdk import DAG, TaskGroup

from company_data.approval import LoadApprovalOperator
from company_data.loads import CheckOperator, LoadOperator, assets
from company_data.notifier import CALLBACKS
from company_data.settings import MAX_ACTIVE_RUNS, RUN_PARAMETERS, SQL_FOLDER, TASK_DEFAULTS
from company_data.staging import stage_csv
from company_data.task_docs import explain_tasks

with DAG(
    dag_id="customer_data_load",
    description="Customer profiles, activity and labels, exactly as in their files; once, and again when triggered",
    doc_md=__doc__,
    schedule="@once",
    max_active_runs=MAX_ACTIVE_RUNS,
    is_paused_upon_creation=False,
    params=RUN_PARAMETERS,
    template_searchpath=str(SQL_FOLDER),
    default_args=TASK_DEFAULTS | CALLBACKS,
    tags=["customer"],
) as dag:
    with TaskGroup("stage", prefix_group_id=False):
        profiles = stage_csv.override(task_id="stage_customer_profiles")("customer_profiles")
        activity = stage_csv.override(task_id="stage_customer_activity")("customer_activity")
        labels = stage_csv.override(task_id="stage_labels")("labels")

    loads = {"profiles_load": profiles, "activity_load": activity, "labels_load": labels}

    check_customers = CheckOperator(
        task_id="check_customers",
        sql="customers/check_customers.sql",
        parameters={"loads": list(loads.values())} | loads,
    )
    compare_customers = LoadOperator(
        task_id="compare_customers",
        sql="loads/compare_snapshot.sql",
        parameters={"loads": list(loads.values())},
    )
    approve_customers = LoadApprovalOperator(task_id="approve_customers", loads=list(loads.values()))
    publish_customers = LoadOperator(
        task_id="publish_customers",
        sql="customers/publish_customers.sql",
        parameters=loads,
        autocommit=True,
        outlets=assets("customers", "customer_profiles", "customer_activity", "labels"),
    )

    list(loads.values()) >> check_customers >> compare_customers >> approve_customers >> publish_customers

explain_tasks(dag)
