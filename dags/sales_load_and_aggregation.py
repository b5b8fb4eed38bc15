"""### Loads one month of sales and aggregates it

**Owns** one month, the one that its data interval covers: that month's rows of `sales` and of `monthly_sales`. No
other month is read or written. It also refreshes `stores`.

**Fires** at the start of each month (UTC) for the month that has ended, and catches up from `SALES_FIRST_MONTH`: the
run of 1 February loads January. Months may run side by side, in any order, any number of times. A month is run again
by clearing its run, or by a backfill; a manual trigger has no month, and is refused.

**When … fails**

| task | it means | what to do |
| --- | --- | --- |
| `stage_sales`, `stage_stores` | the file could not be fetched, or its header, a value or a date is wrong; the log names file, line and value. A file that is late is waited for, for a week. Or somebody looks at staging for long, and the lock was not given | mend the file or the network, then clear the task and what follows it |
| `check_sales` | rows of unknown stores, or without an amount; they are in `staging.sales` | have the file mended, then clear the whole run |
| `publish_sales` | another run staged the month since; or a newer `stores.csv` lacks a store. A reader of `sales` who is at work for longer than 3 seconds makes the reload of a month try again, for an hour | clear the whole run |
| `aggregate_month` | a store has vanished from `stores`, or a lock was not given | clear the whole run |

Whatever failed, each table holds either the old month or the new one, whole.
"""

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG

from company_data.schedule import WholeMonths
from company_data.settings import SALE_MONTH, SQL_FOLDER, TASK_DEFAULTS, first_sales_month, last_sales_month
from company_data.staging import stage_csv

with DAG(
    dag_id="sales_load_and_aggregation",
    description="The previous month's sales file into sales, and its sum by store into monthly_sales",
    doc_md=__doc__,
    schedule=WholeMonths(),
    start_date=first_sales_month(),
    end_date=last_sales_month(),
    catchup=True,
    max_active_runs=4,
    # Runs by hand are refused in plugins/data_months.py: without "manual" the UI hides its form for backfills.
    allowed_run_types=["scheduled", "backfill", "manual"],  # type: ignore[list-item]  # names are converted
    is_paused_upon_creation=False,
    template_searchpath=str(SQL_FOLDER),
    default_args=TASK_DEFAULTS,
    tags=["sales"],
):
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
