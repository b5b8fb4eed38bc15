"""The task between comparing and publishing: it ends at once, or waits for a person where a file is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from company_data.notifier import anomaly_message, send
from company_data.settings import CONNECTION_ID, CONNECTION_OPTIONS, DECISION_TIME, on_anomaly


class Request(NamedTuple):
    """A load to decide on: a row of pipeline.approval_requests."""

    load_id: int
    status: str
    error: str | None
    anomalies: str | None
    decided_by: str | None
    replaces_rows: bool
    question: str


class LoadApprovalOperator(ApprovalOperator):
    """Waits for a person if a load is unusual, and ends at once otherwise.

    While it waits it needs no slot, and Airflow shows it under Required Actions. Clearing it asks again, unless somebody
    has decided already. The setting ON_ANOMALY, or "on_anomaly" in the configuration of a run, says what happens:

    protect: a person is asked if rows are published that the unusual file would replace; otherwise as warn.
    ask: a person is asked.
    warn: the file is published, and a notification is sent.
    ignore: the file is published.

    With "preview" in the configuration of a run a person is asked in any case, also about a usual file.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "loads")

    def __init__(self, *, loads: Sequence[Any], **arguments: Any) -> None:
        """Take the loads to decide on, and the arguments of the operators that TASK_DEFAULTS do not give."""
        self.loads = loads
        super().__init__(
            subject="{{ dag.dag_id }}, {{ run_id }}: publish this?",
            fail_on_reject=True,
            response_timeout=DECISION_TIME,
            **arguments,
        )

    def execute(self, context: Any) -> None:
        """Publish by the setting, or ask.

        Raises:
            AirflowFailException: somebody has rejected one of the loads.
            TaskAwaitingInput: a person is asked. Airflow calls execute_complete with the answer.
        """
        conf = context["dag_run"].conf or {}
        mode = on_anomaly(conf.get("on_anomaly"))
        requests = self._requests()
        for request in requests:
            if request.status == "rejected":
                raise AirflowFailException(f"load {request.load_id}: {request.error}")
        undecided = [
            request
            for request in requests
            if request.status in ("checked", "pending_approval") and not request.decided_by
        ]
        unusual = [request for request in undecided if request.anomalies or conf.get("preview")]
        if not unusual:
            return
        found = "; ".join(str(request.anomalies or "a preview was asked for") for request in unusual)
        replaces_rows = any(request.replaces_rows for request in unusual)
        if conf.get("preview") or mode == "ask" or (mode == "protect" and replaces_rows):
            self._each(unusual, "select pipeline.request_approval(%s, %s)", datetime.now(UTC) + DECISION_TIME)
            self.body = "\n\n".join(request.question for request in unusual)
            send(anomaly_message(context, "pending_approval", found))
            super().execute(context)
        if mode != "ignore":
            send(anomaly_message(context, "unusual", found))
        self._decide(True, f"nobody, by ON_ANOMALY={mode}")

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer, and fail if it is no.

        Raises:
            AirflowFailException: the answer came too late.
            AirflowSkipException: a later load of the file is published.
            HITLRejectException: the file was rejected.
            HITLTimeoutError: nobody answered in time.
        """
        if "error" in event:
            self._decide(None, None)
            return super().execute_complete(context, event)
        person = event.get("responded_by_user") or {"name": "unknown"}
        self._decide(event["chosen_options"] == [self.APPROVE], person["name"])
        for request in self._requests():
            if request.status == "failed":
                raise AirflowFailException(f"load {request.load_id}: {request.error}")
            if request.status == "superseded":
                raise AirflowSkipException(
                    f"load {request.load_id} was superseded before {person['name']} decided, so there is nothing to do."
                )
        return super().execute_complete(context, event)

    def _hook(self) -> PostgresHook:
        return PostgresHook(CONNECTION_ID, options=CONNECTION_OPTIONS)

    def _requests(self) -> list[Request]:
        rows = self._hook().get_records(
            "select load_id, status, error, anomalies, decided_by, replaces_rows, question"
            " from pipeline.approval_requests where load_id = any(%s) order by load_id",
            parameters=[[int(load) for load in self.loads]],
        )
        return [Request(*row) for row in rows]

    def _decide(self, is_approved: bool | None, decided_by: str | None) -> None:
        asked = [request for request in self._requests() if request.anomalies or request.status == "pending_approval"]
        self._each(asked, "select pipeline.decide_load(%s, %s::boolean, %s::text)", is_approved, decided_by)

    def _each(self, requests: list[Request], statement: str, *arguments: object) -> None:
        """Run a statement for each request, in one transaction."""
        with self._hook().get_conn() as connection:
            for request in requests:
                connection.execute(statement, [request.load_id, *arguments])
