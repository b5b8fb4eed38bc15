"""### Loads one month of sales and aggregates it

**Owns** one month, the one that its data interval covers: that month's rows of `sales` and of `monthly_sales`. No
other month is read or written. It also refreshes `stores`.

**Fires** at the start of each month (UTC) for the month that has ended, and catches up from `SALES_FIRST_MONTH`: the
run of 1 February loads January. Months may run side by side, in any order, any number of times. To load a month
again, clear its run, or use a backfill or **Trigger**, which loads the last whole month before its logical date. The
dates of both forms are UTC: with another offset they select other months.

If a task fails, the tables stay as they were: stores, the month of `sales` and the month of `monthly_sales` change
together in `publish_month`.

#### `stage_sales`

Copies the month's file into a table of its own in schema `staging`. A file that is late is waited for, for a week
after the end of the month.

- **When it fails**, the file could not be fetched, or its header, a value or a date is wrong.
- **Look** at its log, which names file, line and value. `pipeline.loads` lists every attempt.
- **Then** have the file or the network fixed, and clear this task with its downstream tasks.

#### `stage_stores`

Copies `stores.csv` as it is on that day, to check the month against it.

- **When it fails**, the reasons are those of `stage_sales`, except that a store list is never late.
- **Look** at its log, which names file, line and value.
- **Then** have the file or the network fixed, and clear this task with its downstream tasks. In a run that has
  published its month, clear the whole run: the rows of `stage_sales` are in `sales` and cannot be checked again, so
  `check_month` would reject them.

#### `check_month`

Checks what was staged before it is published: `sql/sales/check_month.sql`.

- **When it fails**, `stores.csv` lacks the stores of some sales or has a store with two locations, or a value is not
  an amount.
- **Look** at its log for the number of rows, the first of them, and the tables in `staging` that keep the rows.
- **Then** have the file fixed, and clear the whole run: it must be staged again.

#### `compare_month`

Compares the month with the months that are loaded: `sql/sales/compare_month.sql`. It says what is unusual, because rows,
days or stores are missing or the amounts are of another size, and decides nothing.

- **When it fails**, the database was not available, or somebody has rejected the month.
- **Look** at its log.
- **Then** clear this task with its downstream tasks; for a rejected month, clear the whole run.

#### `approve_month`

Ends at once if the month is usual. An unusual month that would replace published rows waits for a decision under
**Required Actions**, which shows the figures: **Approve** publishes it, **Reject** fails the run and keeps the old month.
An unusual month of which nothing is published yet is published, and a notification says so. The setting `ON_ANOMALY`
changes this.

- **When it fails**, the month was rejected, which stays so, or nobody decided for a week.
- **Look** at its Required Actions, or at `pipeline.loads`, which keeps who decided.
- **Then** have the file fixed, and clear the whole run.

#### `publish_month`

Publishes stores, the month of `sales` and the month of `monthly_sales` in one transaction:
`sql/sales/publish_month.sql`. It is skipped if a file of the month that was requested later is published already.

- **When it fails**, a foreign key refers to `monthly_sales`, a trigger or a policy changed what was inserted, a
  migration changed the table since the file was staged, or a lock timed out.
- **Look** at its log; for a lock, at the sessions in `pg_stat_activity`.
- **Then** clear the whole run.
"""

from airflow.sdk import DAG, Asset, TaskGroup

from company_data.approval import LoadApprovalOperator
from company_data.loads import CheckOperator, LoadOperator
from company_data.notifier import LoadNotifier, overdue_alert
from company_data.schedule import MonthlyTimetable
from company_data.settings import SALE_MONTH, SQL_FOLDER, TASK_DEFAULTS, first_sales_month, last_sales_month
from company_data.staging import stage_csv
from company_data.task_docs import explain_tasks

with DAG(
    dag_id="sales_load_and_aggregation",
    description="The previous month's sales file into sales, and its sum by store into monthly_sales; dates are UTC",
    doc_md=__doc__,
    schedule=MonthlyTimetable(first_sales_month(), last_sales_month()),
    start_date=first_sales_month(),
    catchup=True,
    deadline=overdue_alert(),
    max_active_runs=4,
    is_paused_upon_creation=False,
    template_searchpath=str(SQL_FOLDER),
    default_args=TASK_DEFAULTS | {"on_failure_callback": LoadNotifier()},
    tags=["sales", "monthly"],
) as dag:
    with TaskGroup("stage", prefix_group_id=False):
        staged_sales = stage_csv.override(task_id="stage_sales")(f"sales/{SALE_MONTH}/sales.csv", "sales", SALE_MONTH)
        staged_stores = stage_csv.override(task_id="stage_stores")("stores.csv", "stores")

    loads = {"sales_load": staged_sales, "stores_load": staged_stores}

    check_month = CheckOperator(
        task_id="check_month",
        sql="sales/check_month.sql",
        parameters=loads,
    )
    compare_month = LoadOperator(
        task_id="compare_month",
        sql="sales/compare_month.sql",
        parameters={"sale_month": SALE_MONTH, "sales_load": staged_sales},
    )
    approve_month = LoadApprovalOperator(task_id="approve_month", loads=[staged_sales])
    publish_month = LoadOperator(
        task_id="publish_month",
        sql="sales/publish_month.sql",
        parameters={"sale_month": SALE_MONTH} | loads,
        autocommit=True,
        outlets=[Asset("stores"), Asset("sales"), Asset("monthly_sales")],
    )

    # Sales may be waited for, and need the stores of the day they come.
    staged_sales >> staged_stores >> check_month >> compare_month >> approve_month >> publish_month

explain_tasks(dag)
