"""### Loads one month of sales and aggregates it

**Owns** one month, the one that its data interval covers: that month's rows of `sales` and of `monthly_sales`. No
row of another month is read or written; the comparison reads their figures in the ledger. It also refreshes `stores`.

**Runs** at the start of each month (UTC) for the month that has ended, and catches up from `SALES_FIRST_MONTH`: the
run of 1 February loads January. Months may run side by side, in any order, any number of times. To load a month
again, clear its run, or use a backfill or **Trigger**, which loads the last whole month before its logical date. The
dates of both forms are UTC: with another offset they select other months.

If a task fails, the tables stay as they were: stores, the month of `sales` and the month of `monthly_sales` change
together in `publish_month`.
"""

from airflow.sdk import DAG

from company_data.monthly_load import load_month, monthly_dag
from company_data.task_docs import explain_tasks

with DAG(
    dag_id="sales_load_and_aggregation",
    description="The previous month's sales file into sales, and its sum by store into monthly_sales; dates are UTC",
    tags=["sales", "monthly"],
    **monthly_dag("sales", __doc__),
) as dag:
    load_month("sales", publishes=["stores", "sales", "monthly_sales"])

explain_tasks(dag)
