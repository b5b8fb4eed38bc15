"""The operators of the tasks that check, compare and publish loads."""

from __future__ import annotations

from typing import Any

import psycopg
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowSkipException

from sql_link import RenderedSql

# Errors of pipeline.publish_load and pipeline.open_staged, by their SQLSTATE.
SUPERSEDED, PUBLISHED_ALREADY = "PL001", "PL002"

# What rejects a load while it is checked or published, as a migration that came between does, is kept by the ledger too.
RECORD_REJECTED = """
    select pipeline.check_load(load_id, %(error)s)
    from pipeline.loads
    where load_id = any(%(loads)s::bigint[]) and starts_with(%(error)s, source_url)
"""

REQUIRE_CHECKED = "select pipeline.require_checked(variadic %(loads)s::bigint[])"

# What the events of the assets say: the tables that it is about, and the rest.
PUBLISHED = """
    select
        array_prepend(table_name, derived_tables),
        jsonb_build_object(
            'file', source_url, 'month', to_char(file_month, 'YYYY-MM'), 'rows', row_count, 'total', total::text,
            'version', sha256
        )
    from pipeline.loads
    inner join pipeline.file_rows using (file_id)
    where load_id = any(%s)
"""
BUILT = """
    select array[table_name], jsonb_build_object('rows', row_count, 'version', file_version)
    from public.data_freshness
    where table_name = any(%s)
"""


def assets(group: str, *tables: str) -> list[Asset]:
    """The assets of published tables. All DAG files must name the same group: the file that is parsed last decides."""
    return [Asset(table, group=group) for table in tables]


def describe_build(context: Any, _: Any = None) -> None:
    """Add to the events of the tables that a task has built what they hold."""
    _describe(context, BUILT, [asset.name for asset in context["task"].outlets])


def _describe(context: Any, query: str, of: list[Any]) -> None:
    found = context["task"].get_db_hook().get_records(query, [of])
    for asset in context["task"].outlets:
        for tables, extra in found:
            if asset.name in tables:
                context["outlet_events"][asset].extra = {
                    key: value for key, value in extra.items() if value is not None
                }


def loads_of(parameters: Any) -> list[int]:
    """The loads that the parameters of a task name, one by one or all together as "loads"."""
    named = {name: value for name, value in parameters.items() if name.endswith(("load", "loads"))}
    # A staging task that a person has marked as success has no load, of which the statements say what to do.
    return [int(load) for load in named.get("loads") or named.values() if load is not None]


class LoadOperator(SQLExecuteQueryOperator):
    """Runs a file under sql/ on the loads of a run.

    The event of each asset names the file, its month, rows, total and version (SHA-256).

    If a later load of the file is published, the task is skipped. If the load itself is published already, the task
    succeeds, so that its assets are updated although the answer to the commit was lost.
    """

    # The plugin adds it to the class above alone.
    operator_extra_links = (RenderedSql(),)

    def execute(self, context: Any) -> Any:
        """Run the file.

        Raises:
            AirflowSkipException: a later load of the file is published.
            psycopg.Error: the database failed, or rejects the load.
        """
        result = None
        try:
            result = super().execute(context)  # type: ignore[no-untyped-call]
        except psycopg.Error as error:
            if error.sqlstate == SUPERSEDED:
                raise AirflowSkipException(error.diag.message_primary) from None
            if error.sqlstate != PUBLISHED_ALREADY:
                if isinstance(error, psycopg.errors.CheckViolation):
                    rejected = {"error": error.diag.message_primary, "loads": loads_of(self.parameters)}
                    self.get_db_hook().run(RECORD_REJECTED, autocommit=True, parameters=rejected)
                raise
            self.log.info(error.diag.message_primary)
        if self.outlets:
            _describe(context, PUBLISHED, loads_of(self.parameters))
        return result


class CheckOperator(LoadOperator):
    """Runs a file that records verdicts in one transaction, and raises them in a second, so that the ledger keeps them."""

    def execute(self, context: Any) -> None:
        """Run the file, and fail if one of its loads is rejected.

        Raises:
            AirflowSkipException: as LoadOperator; so is psycopg.Error, which also says that a load is rejected.
        """
        super().execute(context)
        self.get_db_hook().run(REQUIRE_CHECKED, parameters={"loads": loads_of(self.parameters)})
