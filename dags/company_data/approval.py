"""The task between comparing and publishing: it ends at once, or waits for a person where a file is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from company_data.notifier import anomaly_message, try_to_send
from company_data.settings import CONNECTION_ID, CONNECTION_OPTIONS, DECISION_TIME, asks_a_person, on_anomaly

REQUESTS = """
    select
        load_id, status, error, anomalies, decided_by, on_anomaly, replaces_rows, file_month, anomaly_count, question,
        figures
    from pipeline.approval_requests
    where load_id = any(%s)
    order by load_id
"""
ASK = "select pipeline.request_approval(load_id, now() + %s) from unnest(%s::bigint[]) as unusual (load_id)"
PUBLISH = "select pipeline.decide_load(load_id, true, %s) from unnest(%s::bigint[]) as unusual (load_id)"
# Where nobody is asked, a load may also replace what another run publishes after the comparison.
REPLACES_ALL = "update pipeline.loads set compared_with = null where load_id = any(%s::bigint[]) returning load_id"
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

PENDING = "select load_id, dag_id, run_id from pipeline.loads where status = 'pending_approval'"

# Keys of what Airflow keeps for the tries of a task: the answer, and the loads of which a notification was sent.
ANSWER, NOTIFIED = "answer", "notified"


@task
def end_orphaned_questions() -> str:
    """Fail the loads that wait for a person in a run that was deleted or marked as failed; returns how many."""
    with PostgresHook(CONNECTION_ID, options=CONNECTION_OPTIONS).get_conn() as connection:
        pending = connection.execute(PENDING).fetchall()
        orphans = [load for load, dag, run in pending if not _is_active(dag, run)]
        connection.execute(DECIDE, [None, None, orphans])
    return f"approvals: {len(pending)} loads waited for a person, {len(orphans)} of them in a run that has ended"


def _is_active(dag_id: str, run_id: str) -> bool:
    instance = get_current_context()["ti"]
    return instance.get_dr_count(dag_id, run_ids=[run_id], states=["queued", "running"]) > 0


class Request(NamedTuple):
    """A load to decide on: a row of pipeline.approval_requests."""

    load_id: int
    status: str
    error: str | None
    anomalies: str | None
    decided_by: str | None
    on_anomaly: str | None
    replaces_rows: bool
    file_month: date | None
    anomaly_count: int
    question: str
    figures: str


class LoadApprovalOperator(ApprovalOperator):
    """Waits for a person if a load is unusual, and ends at once otherwise.

    While it waits it needs no slot, and Airflow shows it under Required Actions. The answers name the load, so that
    Airflow rejects an answer to the question about another one. Clearing it asks again, unless somebody has decided
    already, also about an earlier load with the same bytes.

    The setting ON_ANOMALY says what happens. sources.on_anomaly overrides it for a source, and "on_anomaly" in the
    configuration of a run overrides both:

    protect: a person is asked if rows are published that the unusual file would replace; otherwise as warn.
    ask: a person is asked.
    warn: the file is published, and a notification is sent.
    ignore: the file is published.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "loads")

    def __init__(self, *, loads: Sequence[Any], **arguments: Any) -> None:
        """Take the loads to decide on, and the arguments of the operators that TASK_DEFAULTS do not give."""
        self.loads = loads
        super().__init__(subject="", response_timeout=DECISION_TIME, **arguments)

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
        for request in requests:
            if request.anomalies and request.decided_by:
                about = (request.load_id, request.anomalies, request.decided_by)
                self.log.info("Load %s is unusual: %s. Nobody is asked: %s has decided on these bytes.", *about)
        if mode in ("warn", "ignore"):
            self._run(REPLACES_ALL, [request.load_id for request in requests])
        if not unusual:
            return
        loads = [request.load_id for request in unusual]
        replaces_rows = any(request.replaces_rows for request in unusual)
        asks = asks_a_person(mode, replaces_rows=replaces_rows)
        if asks:
            kept.delete(ANSWER)
            self._run(ASK, DECISION_TIME, loads)
        anomalies = "; ".join(request.anomalies for request in unusual if request.anomalies)
        if (asks or mode != "ignore") and kept.get(NOTIFIED) != loads:
            try_to_send(anomaly_message(context, anomalies, None if asks else mode))
            kept.set(NOTIFIED, loads)
        if asks:
            self.options = self._options()
            count = sum(request.anomaly_count for request in unusual)
            self.subject = (
                f"{f'{month:%Y-%m}' if (month := unusual[0].file_month) else 'Customer files'}: "
                f"{f'{count} measures are' if count > 1 else '1 measure is'} unusual. Publish?"
            )
            self.body = "\n\n".join(request.question for request in unusual)
            for request in unusual:
                self.log.info("All figures of load %s:\n\n%s\n", request.load_id, request.figures)
            super().execute(context)
        self._run(PUBLISH, f"ON_ANOMALY={mode}", loads)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> None:
        """Record the answer, and fail if it is no.

        Raises:
            AirflowFailException: the file was rejected, or nobody answered in time.
            AirflowSkipException: a later load of the file is published.
            AirflowException: the answer is about another load. The next try asks about the one that would be published.
        """
        loads = [int(load) for load in self.loads]
        if "error" in event:
            answer = [None, None, loads]
        else:
            approve, reject = self._options()
            [chosen] = event["chosen_options"]
            if chosen not in (approve, reject):
                raise AirflowException(
                    f'The answer was "{chosen}", which is not the load that would be published now, so it decides '
                    "nothing, and the question is asked again."
                )
            person = event.get("responded_by_user") or {"name": "unknown"}
            answer = [chosen == approve, person["name"], loads]
            # Airflow gives it to this try alone.
            context["task_state_store"].set(ANSWER, answer)
        self._run(DECIDE, *answer)
        if any(request.status == "superseded" for request in self._requests()):
            raise AirflowSkipException("A later load of the file is published, so the answer changes nothing.")

    def _options(self) -> list[str]:
        """The answers."""
        about = f"load{'s' if len(self.loads) > 1 else ''} {', '.join(map(str, self.loads))}"
        return [f"{self.APPROVE} {about}", f"{self.REJECT} {about}"]

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
