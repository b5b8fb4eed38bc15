"""The task between comparing and publishing: it ends at once, or waits for a person where a file is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from company_data.notifier import NotificationError, anomaly_message, send
from company_data.settings import CONNECTION_ID, CONNECTION_OPTIONS, DECISION_TIME, on_anomaly

REQUESTS = """
    select load_id, status, error, anomalies, decided_by, on_anomaly, replaces_rows, question
    from pipeline.approval_requests
    where load_id = any(%s)
    order by load_id
"""
ASK = "select pipeline.request_approval(load_id, now() + %s) from unnest(%s::bigint[]) as unusual (load_id)"
PUBLISH = "select pipeline.decide_load(load_id, true, %s) from unnest(%s::bigint[]) as unusual (load_id)"
# The loads about which a person was asked, and that have no answer yet.
DECIDE = """
    select pipeline.decide_load(load_id, %s::boolean, %s::text)
    from pipeline.loads
    where
        load_id = any(%s::bigint[])
        and status in ('pending_approval', 'superseded')
        and decide_until is not null
        and decided_by is null
"""

ANSWER = "answer"  # its key in what Airflow keeps for the tries of a task


class Request(NamedTuple):
    """A load to decide on: a row of pipeline.approval_requests."""

    load_id: int
    status: str
    error: str | None
    anomalies: str | None
    decided_by: str | None
    on_anomaly: str | None
    replaces_rows: bool
    question: str


class LoadApprovalOperator(ApprovalOperator):
    """Waits for a person if a load is unusual, and ends at once otherwise.

    While it waits it needs no slot, and Airflow shows it under Required Actions. Clearing it asks again, unless somebody
    has decided already. The setting ON_ANOMALY says what happens. sources.on_anomaly overrides it for a source, and
    "on_anomaly" in the configuration of a run overrides both:

    protect: a person is asked if rows are published that the unusual file would replace; otherwise as warn.
    ask: a person is asked.
    warn: the file is published, and a notification is sent.
    ignore: the file is published.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "loads")

    def __init__(self, *, loads: Sequence[Any], **arguments: Any) -> None:
        """Take the loads to decide on, and the arguments of the operators that TASK_DEFAULTS do not give."""
        self.loads = loads
        super().__init__(
            subject="{{ dag.dag_id }}, {{ run_id }}: publish this?", response_timeout=DECISION_TIME, **arguments
        )

    def execute(self, context: Any) -> None:
        """Publish by the setting, or ask.

        Raises:
            AirflowFailException: somebody has rejected one of the loads, or nobody decided in time.
            TaskAwaitingInput: a person is asked. Airflow calls execute_complete with the answer.
        """
        kept = context["task_state_store"]
        if answer := kept.get(ANSWER):
            # A try that had the answer ended before it was recorded.
            self._run(DECIDE, *answer)
        conf = context["dag_run"].conf or {}
        requests = self._requests()
        of_source = next((request.on_anomaly for request in requests if request.on_anomaly), None)
        mode = on_anomaly(conf.get("on_anomaly") or of_source)
        unusual = [
            request
            for request in requests
            if request.status in ("checked", "pending_approval") and not request.decided_by and request.anomalies
        ]
        if not unusual:
            return
        loads = [request.load_id for request in unusual]
        replaces_rows = any(request.replaces_rows for request in unusual)
        asks = mode == "ask" or (mode == "protect" and replaces_rows)
        if asks:
            kept.delete(ANSWER)
            self._run(ASK, DECISION_TIME, loads)
        anomalies = "; ".join(request.anomalies for request in unusual if request.anomalies)
        if asks or mode != "ignore":
            try:
                send(anomaly_message(context, anomalies, None if asks else mode))
            except NotificationError as error:
                # month_status shows the same, and Required Actions.
                self.log.warning("%s", error)
        if asks:
            self.body = "\n\n".join(request.question for request in unusual)
            super().execute(context)
        self._run(PUBLISH, f"ON_ANOMALY={mode}", loads)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> None:
        """Record the answer, and fail if it is no.

        Raises:
            AirflowFailException: the file was rejected, or nobody answered in time.
            AirflowSkipException: a later load of the file is published.
        """
        loads = [int(load) for load in self.loads]
        if "error" in event:
            answer = [None, None, loads]
        else:
            person = event.get("responded_by_user") or {"name": "unknown"}
            answer = [event["chosen_options"] == [self.APPROVE], person["name"], loads]
            # Airflow gives it to this try alone.
            context["task_state_store"].set(ANSWER, answer)
        self._run(DECIDE, *answer)
        if any(request.status == "superseded" for request in self._requests()):
            raise AirflowSkipException("A later load of the file is published, so the answer changes nothing.")

    def _requests(self) -> list[Request]:
        """The loads, none of which is rejected or failed."""
        rows = self._run(REQUESTS, [int(load) for load in self.loads])
        requests = [Request(*row) for row in rows]
        if ended := [request for request in requests if request.status in ("rejected", "failed")]:
            raise AirflowFailException("; ".join(f"load {request.load_id}: {request.error}" for request in ended))
        return requests

    def _run(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own; returns its rows."""
        with PostgresHook(CONNECTION_ID, options=CONNECTION_OPTIONS).get_conn() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(statement, parameters).fetchall()
            return rows
