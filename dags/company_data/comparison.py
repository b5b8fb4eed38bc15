"""A SQL task that compares what was staged with what is loaded, and asks a person where it is odd."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from airflow.providers.standard.operators.hitl import ApprovalOperator

from company_data.loads import LoadOperator
from company_data.notifier import odd_message, send
from company_data.settings import odd_months

# For so long a run waits for the decision.
DECISION_TIME = timedelta(days=7)

# A run whose month ended longer ago than the longest month catches up.
LONGEST_MONTH = timedelta(days=31)


class Question(NamedTuple):
    """A load to decide on: a row of pipeline.questions."""

    load_id: int
    oddities: str | None
    is_first: bool
    text: str


class ComparisonOperator(LoadOperator, ApprovalOperator):
    """Runs a file that holds odd loads, and waits for a person while one is held.

    A file that is not odd costs one query more. While a person is waited for, the task needs no slot, and Airflow
    shows it under Required Actions. Clearing it compares and asks again. The setting ODD_MONTHS, or "odd_months" in the
    configuration of a run, says what happens to an odd file:

    hold: a person is asked, but not about months that are loaded for the first time by a catch-up or a backfill.
    ask: a person is asked in any case, also about a file that is not odd.
    warn: a notification is sent, and the file is published.
    ignore: the file is published.
    """

    template_fields: Sequence[str] = (*LoadOperator.template_fields, "subject")

    def __init__(self, **arguments: Any) -> None:
        """Take the arguments of LoadOperator. Its parameters whose names end in _load are the loads."""
        super().__init__(
            subject="{{ dag.dag_id }}, {{ run_id }}: publish this?",
            fail_on_reject=True,
            response_timeout=DECISION_TIME,
            **arguments,
        )

    def execute(self, context: Any) -> None:
        """Compare, and publish by the setting, or ask.

        Raises:
            TaskAwaitingInput: a person is asked. Airflow calls execute_complete with the answer.
        """
        LoadOperator.execute(self, context)
        mode = odd_months((context["dag_run"].conf or {}).get("odd_months"))
        if mode == "ask":
            self._each_load("select pipeline.hold_load(%s, 'the run was told to ask')", self._questions("checked"))
        held = self._questions("held")
        if not held:
            return
        if mode == "ask" or (mode == "hold" and not _catches_up(context, held)):
            self.body = "\n\n".join(question.text for question in held)
            send(odd_message(context, "held", oddities(held)))
            ApprovalOperator.execute(self, context)
        if mode != "ignore":
            send(odd_message(context, "odd", oddities(held)))
        self._decide(True, "nobody, because the run catches up" if mode == "hold" else f"nobody, by ODD_MONTHS={mode}")

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer, and fail if it is no.

        Raises:
            HITLRejectException: the file was rejected.
            HITLTimeoutError: nobody answered in time.
        """
        if "error" in event:
            self._decide(False, f"nobody within {DECISION_TIME.days} days")
        else:
            person = event.get("responded_by_user") or {"name": "unknown"}
            self._decide(event["chosen_options"] == [self.APPROVE], person["name"])
        return ApprovalOperator.execute_complete(self, context, event)

    def _questions(self, outcome: str) -> list[Question]:
        loads = [int(load) for name, load in self.parameters.items() if name.endswith("_load")]  # type: ignore[union-attr]
        rows = self.get_db_hook().get_records(
            "select load_id, oddities, is_first, question from pipeline.questions where load_id = any(%s) and outcome = %s",
            [loads, outcome],
        )
        return [Question(*row) for row in rows]

    def _decide(self, is_approved: bool, decided_by: str) -> None:
        self._each_load("select pipeline.decide_load(%s, %s, %s)", self._questions("held"), is_approved, decided_by)

    def _each_load(self, statement: str, questions: list[Question], *arguments: object) -> None:
        for question in questions:
            self.get_db_hook().run(statement, parameters=[question.load_id, *arguments])


def oddities(questions: list[Question]) -> str:
    """What is odd, in one text."""
    return "; ".join(str(question.oddities) for question in questions)


def _catches_up(context: Any, questions: list[Question]) -> bool:
    """Whether the run loads an older month for the first time, as catch-up and backfills do month by month."""
    run = context["dag_run"]
    return (
        run.run_type in ("scheduled", "backfill")
        and run.data_interval_end is not None
        and run.data_interval_end + LONGEST_MONTH < datetime.now(UTC)
        and all(question.is_first for question in questions)
    )
