"""Waits until the workflows have loaded what is due, or until everything that is left needs a person."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from typing import Any, NamedTuple

from embedded.airflow import check_services, wait_for_api
from embedded.api import Api
from embedded.progress import say
from embedded.state import LOGS, RunError, State
from services.status import GOOD_STATES, Status, for_any_month, months_due, months_from, read_status

STALL_SECONDS = 900
HEARTBEAT_SECONDS = 15
# Within it, Airflow starts what follows from the end of a run.
SETTLE_SECONDS = 5
# Within it, Airflow reads a new file of dags/.
READ_SECONDS = 60

Run = Mapping[str, Any]


class Outcome(NamedTuple):
    """What is left for a person: why something is not loaded, and what waits for a decision."""

    problems: list[str]
    questions: str


@dataclass(frozen=True)
class Work:
    """What is loaded, and what runs.

    Attributes:
        status: what is loaded.
        dags: the workflow that publishes each table, as far as Airflow has read the files.
        runs: the runs of each workflow, oldest first.
        questions: workflow and id of the runs that wait for a person.
    """

    status: Status
    dags: Mapping[str, str]
    runs: Mapping[str, Sequence[Run]]
    questions: set[tuple[str, str]] = field(default_factory=set)

    @property
    def monthly_dags(self) -> set[str]:
        """The workflows that load a month per run."""
        return {self.dags[table] for table in self.status.monthly_tables if table in self.dags}

    @property
    def missing_months(self) -> list[tuple[str, date]]:
        """The months due that are not loaded."""
        states = self.status.month_states
        return [key for key in states if key[1] in self.status.due and states[key] not in GOOD_STATES]

    @property
    def missing_tables(self) -> list[str]:
        """The tables that are not loaded, without those that come with a month."""
        return [
            table
            for table, state in self.status.table_states.items()
            if state != "loaded" and not (state == "missing" and self.dags.get(table) in self.monthly_dags)
        ]

    def runs_of(self, table: str, month: date | None = None) -> list[Run]:
        """The runs of the workflow of a table, oldest first; with a month, those that load it."""
        return [run for run in self.runs.get(self.dags.get(table, ""), []) if month in (None, month_of(run))]

    def failed(self, table: str, month: date | None = None) -> Run | None:
        """The newest run of a table or of its month, if it failed."""
        newest = next(reversed(self.runs_of(table, month)), None)
        return newest if newest and newest["state"] == "failed" else None

    def at_work(self) -> bool:
        """Whether a run continues by itself: not one that waits for a late file or for a person."""
        states = self.status.month_states
        late = {(self.dags.get(table), month) for (table, month), state in states.items() if state == "waiting"}
        return any(
            run["state"] in ("queued", "running")
            and (dag, month_of(run)) not in late
            and (dag, run["dag_run_id"]) not in self.questions
            for dag, runs in self.runs.items()
            for run in runs
        )

    def expected(self) -> bool:
        """Whether Airflow will still create a run by itself."""
        states = self.status.month_states
        if any(states[key] == "missing" and not self.runs_of(*key) for key in self.missing_months):
            return True
        # Without the customer files, the features get no run.
        tables = self.missing_tables
        ended_badly = bool(self.questions) or any(self.failed(table) for table in tables)
        return not ended_badly and any(not self.runs_of(table) for table in tables)

    def unfinished_dags(self) -> set[str]:
        """The workflows of what is not loaded, or with a run that has not ended."""
        tables = {*self.missing_tables, *(table for table, _ in self.missing_months)}
        active = {dag for dag, runs in self.runs.items() for run in runs if run["state"] in ("queued", "running")}
        return active | {self.dags[table] for table in tables if table in self.dags}


def wait_for_workflows(state: State) -> Outcome:
    """Wait until everything is loaded and the runs have ended, showing how far they are.

    Raises:
        RunError: a DAG file cannot be read, a table has no workflow, a service died, or nothing moved for a quarter of
            an hour.
    """
    api = wait_for_api(state)
    shown, moved, changed, spoken = "", (0, ""), time.monotonic(), 0.0
    dags: dict[str, str] = {}
    triggered: set[str] = set()
    while True:
        check_services(state)
        status = read_status(state.cluster.url("companydata"), months_due(state.settings))
        if not dags.keys() >= status.table_states.keys():
            dags = api.producers()
        runs = {dag: api.runs(dag) for dag in sorted({dags[table] for table in status.table_states if table in dags})}
        if errors := api.import_errors():
            raise RunError("\n\n".join(f"a DAG file cannot be read: {error}" for error in errors))
        progress = progress_of(status)
        ended = sum(run["state"] in ("success", "failed") for of_dag in runs.values() for run in of_dag)
        now = time.monotonic()
        if moved != (ended, progress):
            moved, changed = (ended, progress), now
        settled = now - changed > SETTLE_SECONDS
        work = Work(status, dags, runs, api.questions() if settled else set())
        if progress != shown:
            shown, spoken = progress, now
            say(progress)
        elif now - spoken > HEARTBEAT_SECONDS:
            spoken = now
            say(f"{progress} ({why_waiting(api)})")
        if outcome := outcome_of(work, api, triggered, settled=settled):
            return outcome
        for table in work.status.monthly_tables:
            if table in dags and (months := passed_over(runs[dags[table]], status, table)):
                start_backfill(api, dags[table], months)
        unknown = [table for table in status.table_states if table not in dags]
        if dags and unknown and now - changed > READ_SECONDS:
            raise RunError(
                f"no workflow publishes {', '.join(unknown)}, so nothing loads it. Add its file to dags/, or downgrade "
                "the migration that added the table."
            )
        if now - changed > STALL_SECONDS:
            minutes = STALL_SECONDS // 60
            raise RunError(
                f"nothing has moved for {minutes} minutes ({progress}; {why_waiting(api)}). Read the logs in {LOGS}."
            )
        time.sleep(1)


def outcome_of(work: Work, api: Api, triggered: set[str], *, settled: bool) -> Outcome | None:
    """What is left for a person, once nothing continues by itself; else None. Triggers what has to be triggered.

    Args:
        work: as of now.
        api: of Airflow.
        triggered: the workflows that were triggered before, to which one may be added.
        settled: whether Airflow had the time to start what follows.
    """
    at_work = work.at_work()
    if work.status.complete and not at_work:
        return Outcome([], asked(work))
    if not settled:
        return None
    if paused := api.paused() & work.unfinished_dags():
        advice = f"Unpause it at {api.url}/dags, then make up."
        paused_dags = f"paused, so nothing of it starts: {', '.join(sorted(paused))}. {advice}"
        return Outcome([*problems_of(work, api), paused_dags], asked(work))
    if at_work or work.expected():
        return None
    problems = list(problems_of(work, api))
    dag = None if problems or work.questions else dag_to_trigger(work, triggered)
    if dag is None:
        return Outcome(problems or not_loaded(work), asked(work))
    say(f"{', '.join(work.missing_tables)}: loaded when {dag} is triggered, so it was triggered")
    api.trigger(dag, None, {})
    triggered.add(dag)
    return None


def month_of(run: Run) -> date | None:
    """The month that a run loads."""
    start = run["data_interval_start"]
    return date.fromisoformat(start[:10]).replace(day=1) if start else None


def progress_of(status: Status) -> str:
    """How far the loads are, in one line."""
    tables = list(status.table_states.values())
    parts = [f"{tables.count('loaded')} of {len(tables)} tables"]
    for table in status.monthly_tables:
        good = sum(status.month_states[table, month] in GOOD_STATES for month in status.due)
        parts.append(f"{table} {good} of {len(status.due)} months")
    return "; ".join(parts)


def problems_of(work: Work, api: Api) -> Iterator[str]:
    """Why something is not loaded: the reason in the ledger, or else in the log of the task that failed."""
    notes = {(table, month): note for table, month, *_, note in work.status.months}
    reasons: list[tuple[str, date, str]] = []
    for table, month in work.missing_months:
        dag, state = work.dags.get(table, ""), work.status.month_states[table, month]
        if any((dag, run["dag_run_id"]) in work.questions for run in work.runs_of(table, month)):
            continue
        failed, note = work.failed(table, month), notes[table, month]
        reason = f"{state}: {note}" if note else state
        if failed and state not in ("failed", "rejected"):
            reason = "; ".join(logs_of(api, dag, failed)) or reason
        reasons.append((table, month, reason))
    for (table, _), alike in groupby(reasons, lambda each: (each[0], for_any_month(each[2], each[1]))):
        group = list(alike)
        months, reason = [month for _, month, _ in group], group[0][2]
        begins_later = months[0] == work.status.due[0] and "404" in reason
        hint = " If the source begins later, set SALES_FIRST_MONTH to its first month." if begins_later else ""
        yield f"{table}, {months_from(months)}: {reason}{hint}"
    for table in work.status.without_a_month:
        yield (
            f"the source has no month of {table}: {months_from(work.status.due)}. Correct SOURCE_BASE_URL, or upload a "
            "file; make check-source says what the source has"
        )
    for dag in dict.fromkeys(work.dags[table] for table in work.missing_tables if work.failed(table)):
        yield from logs_of(api, dag, work.runs[dag][-1])


def logs_of(api: Api, dag: str, run: Run) -> list[str]:
    """The log of each task that failed."""
    return [
        f"{dag}, run {failure.run}, task {failure.task} failed:\n{failure.log}"
        for failure in api.failures(dag, run["dag_run_id"])
    ]


def not_loaded(work: Work) -> list[str]:
    """The tables for which nobody has a reason; none while something waits for a person."""
    if work.questions:
        return []
    errors = {table: error for table, *_, error, _ in work.status.tables}
    return [
        f"{table} is {work.status.table_states[table]}: {errors[table] or f'see the runs of {work.dags.get(table)}'}"
        for table in work.missing_tables
    ]


def dag_to_trigger(work: Work, triggered: set[str]) -> str | None:
    """The workflow to trigger, because a table is not loaded although it has run: the table or a file is new."""
    for table in work.missing_tables:
        if work.status.table_states[table] in ("missing", "stale"):
            dag = work.dags.get(table)
            return None if dag in triggered else dag
    return None


def asked(work: Work) -> str:
    """What waits for a person, in one line; empty if nothing does."""
    dags = Counter(dag for dag, _ in work.questions if dag in work.runs)
    months = sum(dags[dag] for dag in work.monthly_dags)
    others = sorted(dags.keys() - work.monthly_dags)
    waiting = [f"{months} month{'s wait' if months > 1 else ' waits'}"] * bool(months) + [
        f"{dag} waits" for dag in others
    ]
    return f"{' and '.join(waiting)} for your decision" if waiting else ""


def why_waiting(api: Api) -> str:
    """What runs, and what keeps the rest from running."""
    running: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for (dag, state), count in api.unfinished_tasks().items():
        states[state] += count
        if state == "running":
            running[dag] += count
    found = [f"running: {', '.join(f'{dag} {count}' for dag, count in running.items())}" if running else "no task runs"]
    if slots := states["queued"] + states["scheduled"]:
        full = api.full_pools()
        found.append(f"waiting for a slot: {slots}" + (f", full: {', '.join(full)}" if full else ""))
    if tries := states["up_for_retry"]:
        found.append(f"waiting for the next try: {tries}")
    return "; ".join(found)


def passed_over(table_runs: Sequence[Mapping[str, Any]], status: Status, table: str) -> list[date]:
    """The missing months of a table that catch-up never loads: it continues after the newest scheduled run."""
    runs = {run["data_interval_start"][:7]: run["dag_run_id"] for run in table_runs if run["data_interval_start"]}
    newest = max((month for month, name in runs.items() if name.startswith("scheduled__")), default="")
    return [
        month
        for (of_table, month), state in status.month_states.items()
        if of_table == table and state == "missing" and f"{month:%Y-%m}" < newest and f"{month:%Y-%m}" not in runs
    ]


def start_backfill(api: Api, dag: str, months: Sequence[date]) -> None:
    """Load months that catch-up passes over; while another backfill runs, this one is not started."""
    if api.backfill(dag, str(months[0]), str(months[-1])):
        say(
            f"SALES_FIRST_MONTH is earlier than the months that are scheduled, and catch-up only goes forward: "
            f"started a backfill from {months[0]:%Y-%m} to {months[-1]:%Y-%m}"
        )
