"""### Loads one month of sales and aggregates it

**Owns** one month, the one that its data interval covers: that month's rows of `sales` and of `monthly_sales`. No
other month is read or written. It also refreshes `stores`.

**Fires** at the start of each month (UTC) for the month that has ended, and catches up from `SALES_FIRST_MONTH`: the
run of 1 February loads January. Months may run side by side, in any order, any number of times. A month is run again
by clearing its run, by a backfill, or by **Trigger**, which loads the last whole month before its logical date.

Whatever fails, each table holds either the old month or the new one, whole.

#### `stage_sales`

Copies the month's file into `staging.sales`. A file that is late is waited for, for a week after the month's end.

- **When it fails**, the file could not be fetched, or its header, a value or a date is wrong. Or somebody looked at
  `staging` for long, and the lock was not given.
- **Look** at its log, which names file, line and value. `pipeline.file_loads` lists every attempt.
- **Then** have the file or the network mended, and clear this task with what follows it.

#### `stage_stores`

Copies `stores.csv` as it is on that day, to check the month against it.

- **When it fails**, it does so for the reasons that `stage_sales` has, but a store list is never late.
- **Look** at its log, which names file, line and value.
- **Then** have the file or the network mended, and clear this task with what follows it.

#### `check_sales`

Judges what was staged before anybody sees it: `sql/sales/check_sales.sql`.

- **When it fails**, sales are of stores that `stores.csv` lacks or has twice under different names, or have no amount.
- **Look** at its log for how many and the first of them. All are in `staging.sales`, and stay there.
- **Then** have the file mended, and clear the whole run: it must be staged again.

#### `publish_sales`

Puts stores and month in place of the old ones in one transaction: `sql/sales/publish_stores.sql`, then
`sql/sales/replace_month_of_sales.sql`. While somebody reads `sales` for longer than 3 seconds, the re-load of a month
waits and tries again for an hour.

- **When it fails**, another run has staged the month since, a newer `stores.csv` lacks a store, or the lock on `sales`
  was never given.
- **Look** at its log; for a lock, at who is connected: `pg_stat_activity`.
- **Then** clear the whole run.

#### `aggregate_month`

Replaces the month's rows of `monthly_sales`: `sql/sales/replace_month_of_monthly_sales.sql`.

- **When it fails**, a store has vanished from `stores`, or a lock was not given. `sales` has the month by then.
- **Look** at its log.
- **Then** clear the whole run.
"""

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, TaskGroup

from company_data.docs import explain_tasks
from company_data.notifier import LoadNotifier, overdue_alert
from company_data.schedule import MonthlyTimetable
from company_data.settings import SALE_MONTH, SQL_FOLDER, TASK_DEFAULTS, first_sales_month, last_sales_month
from company_data.staging import stage_csv

with DAG(
    dag_id="sales_load_and_aggregation",
    description="The previous month's sales file into sales, and its sum by store into monthly_sales",
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
        staged_stores = stage_csv.override(task_id="stage_stores")("stores.csv", "stores", SALE_MONTH)

    loads = {"sale_month": SALE_MONTH, "sales_load": staged_sales, "stores_load": staged_stores}

    check_sales = SQLExecuteQueryOperator(
        task_id="check_sales",
        sql="sales/check_sales.sql",
        parameters=loads,
        autocommit=True,
    )
    # One transaction: the operator takes a list for single statements. Stores go first, so that no sale lacks one.
    publish_sales = SQLExecuteQueryOperator(
        task_id="publish_sales",
        sql="{% include 'sales/publish_stores.sql' %}\n{% include 'sales/replace_month_of_sales.sql' %}",
        parameters=loads,
    )
    aggregate_month = SQLExecuteQueryOperator(
        task_id="aggregate_month",
        sql="sales/replace_month_of_monthly_sales.sql",
        parameters={"sale_month": SALE_MONTH},
    )

    # Sales may be waited for, and need the stores of the day they come.
    staged_sales >> staged_stores >> check_sales >> publish_sales >> aggregate_month

explain_tasks(dag)
