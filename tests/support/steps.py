"""The workflows without Airflow's scheduler: the tasks of the DAG objects in order, by the same Python and SQL."""

import itertools
from contextlib import nullcontext
from functools import cache
from typing import Any

import psycopg
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import XComArg
from airflow.utils.types import DagRunType
from conftest import ROOT, Database

from company_data import staging
from company_data.approval import REPLACES_ALL, LoadApprovalOperator
from company_data.loads import PUBLISHED_ALREADY, REQUIRE_CHECKED, SUPERSEDED, CheckOperator, loads_of
from company_data.settings import CONNECTION_ID, CONNECTION_OPTIONS

SQL = ROOT / "sql"
SALES, CUSTOMERS, FEATURES = "sales_load_and_aggregation", "customer_data_load", "feature_store"
MAINTENANCE = "maintenance"

_run_numbers = itertools.count(1)


@cache
def dags() -> dict[str, Any]:
    """All DAGs. The first call must be in the main thread, where alone Airflow reads DAG files."""
    bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    return dict(bag.dags)


def dag(dag_id: str) -> Any:
    """A DAG, see dags."""
    return dags()[dag_id]


def connect(database: Database) -> psycopg.Connection[Any]:
    """A connection as the tasks open it."""
    return psycopg.connect(database.url("pipeline"), autocommit=True, options=CONNECTION_OPTIONS)


class Run:
    """One run of a DAG: its tasks, to be run one by one or all together."""

    def __init__(self, database: Database, dag_id: str, month: str | None = None, asks: bool = False) -> None:
        """Prepare a run, for sales of a month (its first day); with asks, a person is asked about unusual files."""
        self.database, self.dag, self.month, self.asks = database, dag(dag_id), month, asks
        self.name = f"test {next(_run_numbers)}"
        self.loads: dict[str, int] = {}  # by staging task
        self.reports: list[str] = []  # of the SQL of the last task

    @property
    def tasks(self) -> list[str]:
        return [task.task_id for task in self.dag.topological_sort()]

    def run(self, *tasks: str) -> list[str]:
        """Run the named tasks, or all, and return the reports of the last."""
        for name in tasks or self.tasks:
            task = self.dag.get_task(name)
            if isinstance(task, SQLExecuteQueryOperator):
                with connect(self.database) as connection:
                    try:
                        self.reports = run_sql(connection, task.sql, self.parameters(name), one_by_one=task.autocommit)
                    except psycopg.Error as error:
                        # As LoadOperator: the task is skipped, or has succeeded before.
                        if error.sqlstate not in (SUPERSEDED, PUBLISHED_ALREADY):
                            raise
                        self.reports = []
                        return self.reports
                    if isinstance(task, CheckOperator):
                        connection.execute(REQUIRE_CHECKED, {"loads": loads_of(self.parameters(name))})
            elif isinstance(task, LoadApprovalOperator):
                loads = [self.loads[task_of(load)] for load in task.loads]
                if self.asks:
                    self.ask(loads)
                else:  # ON_ANOMALY=ignore
                    with connect(self.database) as connection:
                        connection.execute(REPLACES_ALL, [loads])
            else:
                table, *month = self.rendered(task.op_args)
                self.loads[name] = stage_file(self.database, table, month[0] if month else None, self.name)
        return self.reports

    def ask(self, loads: list[int]) -> None:
        """Hold the unusual ones of these loads, as approve_month does; tests decide by pipeline.decide_load."""
        with connect(self.database) as connection:
            connection.execute(
                "select pipeline.request_approval(load_id, now() + interval '7 days') from pipeline.approval_requests"
                " where load_id = any(%s) and status = 'checked' and anomalies is not null and decided_by is null",
                [loads],
            )

    def parameters(self, name: str) -> dict[str, object]:
        """The parameters of a SQL task: its month, and the loads of the staging tasks."""
        parameters: dict[str, Any] = self.dag.get_task(name).parameters or {}
        return {key: self.given(value) for key, value in parameters.items()}

    def given(self, value: Any) -> Any:
        """The load of a staging task, those of several, or a templated value."""
        if isinstance(value, list):
            return [self.given(each) for each in value]
        return self.loads[task_of(value)] if isinstance(value, XComArg) else self.rendered(value)

    def rendered(self, value: Any) -> Any:
        """A templated value with this run's month."""
        environment = self.dag.get_template_env()
        if isinstance(value, str):
            environment.filters["ds"] = str
            return environment.from_string(value).render(
                data_interval_start=self.month, dag_run={"run_type": DagRunType.MANUAL}
            )
        return [self.rendered(each) for each in value]


def task_of(value: XComArg) -> str:
    """The task whose result this is."""
    [(operator, _)] = value.iter_references()
    return str(operator.task_id)


def run_sql(
    connection: psycopg.Connection[Any],
    text: str | list[str],
    parameters: dict[str, object],
    one_by_one: bool = False,
    answer: list[tuple[Any, ...]] | None = None,
) -> list[str]:
    """Run SQL as its operator does, in one transaction or statement by statement; returns what it reported.

    A list of texts may commit before its end. The answer takes the rows that the last statement returns.
    """
    reports: list[str] = []
    connection.add_notice_handler(lambda notice: reports.append(str(notice.message_primary)))
    if isinstance(text, list):
        connection.autocommit = False
        with connection:
            for each in text:
                connection.execute(each.encode())
        return reports
    with nullcontext() if one_by_one else connection.transaction():
        for statement in DbApiHook.split_sql_string(text):
            cursor = connection.execute(statement, parameters)
        if answer is not None:
            answer[:] = cursor.fetchall()
    return reports


def comparison(name: str) -> list[str]:
    """The statements of a file of sql/loads but the first, which reads staged rows into pipeline.column_profiles."""
    profile, *others = DbApiHook.split_sql_string((SQL / f"loads/{name}.sql").read_text())
    assert "pipeline.profile_load" in profile
    return others


def stage_file(database: Database, table: str, month: str | None = None, run: str | None = None) -> int:
    """Run a staging task's function; returns the load."""
    hook = PostgresHook(CONNECTION_ID, options=CONNECTION_OPTIONS)
    with connect(database) as connection:
        return staging.stage(connection, table, month, ("test", run or f"test {next(_run_numbers)}"), hook)


def load_month(database: Database, month: str) -> list[str]:
    """All tasks of sales_load_and_aggregation for the month that begins on this day; returns the last reports."""
    return Run(database, SALES, month).run()


def load_customers(database: Database) -> list[str]:
    """All tasks of customer_data_load."""
    return Run(database, CUSTOMERS).run()


def build_feature_store(database: Database, **settings: str) -> list[str]:
    """The tasks of feature_store, with other settings of the transaction, such as max_loss; returns the reports."""
    run = Run(database, FEATURES)
    if not settings:
        return run.run()
    replaced = [f"set local pipeline.{name} = '{value}'" for name, value in settings.items()]
    *given, find, resolve, write, commit, require = run.dag.get_task("refresh_feature_store").sql
    with connect(database) as connection:
        return run_sql(connection, [*given, *replaced, find, resolve, write, commit, require], {})


def alter_sales(database: Database, change: str) -> None:
    """Change the table of sales and that of its files, as a revision does."""
    with database.connect() as admin, admin.transaction():
        for table in ("public.sales", "staging.sales"):
            admin.execute(f"alter table {table} {change}".encode())


def staged_tables(database: Database) -> list[str]:
    """The tables of loads that the next load leaves, without that of the published list of stores."""
    database.run("select pipeline.clean_up()", "pipeline")
    rows = database.run("""
        select relname
        from pg_class
        left join pipeline.loads on 'staging.' || relname = staged_table
        left join pipeline.files using (file_id)
        where
            relnamespace = 'staging'::regnamespace
            and relname ~ '_[0-9]+$'
            and (table_name, status) is distinct from ('stores', 'published')
        order by relname
    """)
    return [name for (name,) in rows]
