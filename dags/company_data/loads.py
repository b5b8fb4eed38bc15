"""The operators of the tasks that check, compare and publish loads."""

from __future__ import annotations

from typing import Any

import psycopg
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk.exceptions import AirflowSkipException

from sql_link import RenderedSql

# Errors of pipeline.publish_load and pipeline.open_staged, by their SQLSTATE.
SUPERSEDED, PUBLISHED_ALREADY = "PL001", "PL002"

REQUIRE_CHECKED = "select pipeline.require_checked(variadic %(loads)s::bigint[])"


def loads_of(parameters: Any) -> list[int]:
    """The loads that the parameters of a task name, one by one or all together as "loads"."""
    return [int(load) for load in parameters.get("loads") or parameters.values()]


class LoadOperator(SQLExecuteQueryOperator):
    """Runs a file under sql/ on the loads of a run.

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
        try:
            return super().execute(context)  # type: ignore[no-untyped-call]
        except psycopg.Error as error:
            if error.sqlstate == SUPERSEDED:
                raise AirflowSkipException(error.diag.message_primary) from None
            if error.sqlstate != PUBLISHED_ALREADY:
                raise
            self.log.info(error.diag.message_primary)
            return None


class CheckOperator(LoadOperator):
    """Runs a file that records verdicts in one transaction, and raises them in a second, so that the ledger keeps them."""

    def execute(self, context: Any) -> None:
        """Run the file, and fail if one of its loads is rejected.

        Raises:
            AirflowSkipException: as LoadOperator; so is psycopg.Error, which also says that a load is rejected.
        """
        super().execute(context)
        self.get_db_hook().run(REQUIRE_CHECKED, parameters={"loads": loads_of(self.parameters)})
