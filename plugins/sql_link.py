"""A button on the page of each task that runs SQL, which leads to that SQL with its parameters."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.plugins_manager import AirflowPlugin
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import BaseOperatorLink, conf


class RenderedSql(BaseOperatorLink):
    """Leads to the task's rendered templates; without host, since the UI may be reached by several names."""

    name = "SQL"
    operators: ClassVar[list[Any]] = [SQLExecuteQueryOperator]

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Where the UI shows the text of the files and the values of their parameters."""
        ui = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        return f"{ui}/dags/{ti_key.dag_id}/runs/{quote(ti_key.run_id)}/tasks/{ti_key.task_id}/rendered_templates"


class SqlLink(AirflowPlugin):
    """Makes the button known to Airflow."""

    name = "sql_link"
    operator_extra_links = [RenderedSql()]  # noqa: RUF012 - declared so by Airflow
