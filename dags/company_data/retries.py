"""When a failed task tries again, and after how long."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy
from psycopg import Error, errors

from company_data.errors import FileNotYetAvailable, SourceUnavailable

# A late file is requested about 30 times in the week after its month, see PAUSES.
STAGING_RETRIES = 40
SQL_RETRIES = 9

# Tries after which a fault of the network or of a server no longer counts as transient: over an hour in total.
TRANSIENT_TRIES = 10

# (first pause, longest pause); each is twice the one before.
PAUSES = {
    FileNotYetAvailable: (timedelta(minutes=15), timedelta(hours=6)),
    Exception: (timedelta(seconds=30), timedelta(minutes=15)),
}
MAX_DOUBLINGS = 10  # more would overflow a timedelta, and the longest pause is reached by then
MAX_RETRY_AFTER = timedelta(hours=6)

# How long after its month a sales file may come late.
LATE_FOR = timedelta(days=7)

# What a retry would find again: bad data, bad SQL, a limit, a read-only or damaged database, an error in the
# code.
PERMANENT = (
    errors.DataError,
    errors.IntegrityError,
    errors.ProgrammingError,
    errors.NotSupportedError,
    errors.ReadOnlySqlTransaction,
    errors.ObjectNotInPrerequisiteState,
    errors.CantChangeRuntimeParam,
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    errors.TooManyColumns,
    errors.TooManyArguments,
    errors.ConfigurationLimitExceeded,
    errors.ActiveSqlTransaction,
    errors.NoActiveSqlTransaction,
    errors.InFailedSqlTransaction,
    errors.InvalidTransactionTermination,
    errors.DependentObjectsStillExist,
    errors.TriggeredDataChangeViolation,
    errors.TriggerProtocolViolated,
    errors.FunctionExecutedNoReturnStatement,
    errors.DataCorrupted,
    errors.IndexCorrupted,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    TypeError,
    ValueError,
)
ADVICE: dict[type[Exception], str] = {
    errors.LockNotAvailable: (
        "another transaction held a lock for longer than lock_timeout, so nothing was changed; pg_stat_activity and "
        "pg_blocking_pids() show which. No action is needed unless this repeats"
    ),
    errors.QueryCanceled: "a statement took longer than statement_timeout or was cancelled, so nothing was changed",
    errors.ForeignKeyViolation: (
        "a row is no longer in the files, and a row of another table refers to it (table, constraint and key are named "
        "above), so nothing was changed; delete or change the referring rows, or declare the foreign key on delete "
        "cascade or set null, then clear the run"
    ),
    errors.ObjectNotInPrerequisiteState: (
        "a publication includes a table whose rows have no identity, so nothing was changed; ALTER TABLE … REPLICA "
        "IDENTITY DEFAULT, or FULL for a table without a key, then clear the run"
    ),
    errors.DiskFull: "the disk of the database is full, so nothing was changed; free some space",
}


class LoadRetryPolicy(RetryPolicy):
    """Fails at once where a retry would find the same, and otherwise pauses longer before each retry.

    Airflow does not ask the policy about FileRejected: as an AirflowFailException it always fails at once.
    """

    def __init__(self, retries: int, late_for: timedelta = timedelta()) -> None:
        """Set the limits.

        Args:
            retries: the task's own number of retries, from which the tries since it was cleared are counted.
            late_for: how long after the data interval the task retries every transient fault.
        """
        self.retries = retries
        self.late_for = late_for

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Any = None,
    ) -> RetryDecision:
        """Decide on one failure; see RetryPolicy. The exception gets the decision as a note, for log and notification."""
        decision = self._decide(exception, try_number, max_tries, context)
        exception.add_note(f"{decision.reason}.".replace("..", "."))
        return decision

    def _decide(self, exception: BaseException, try_number: int, max_tries: int, context: Any) -> RetryDecision:
        advice = next((text for kind, text in ADVICE.items() if isinstance(exception, kind)), None)
        if trigger := _failed_trigger(exception, context):
            advice = trigger
        if isinstance(exception, PERMANENT):
            return RetryDecision.fail(advice or "a retry would find the same; fix the cause, then clear the run")
        # Clearing a task raises max_tries and goes on counting, so only the difference counts.
        tries = try_number - max(max_tries - self.retries, 0)
        patient = isinstance(exception, FileNotYetAvailable) or (
            tries >= TRANSIENT_TRIES and self._may_be_late(context)
        )
        if tries >= TRANSIENT_TRIES and not patient:
            return RetryDecision.fail(f"it failed {tries} times; fix the cause, then clear the run")
        first, longest = PAUSES[FileNotYetAvailable if patient else Exception]
        pause = min(first * 2 ** min(tries - 1, MAX_DOUBLINGS), longest)
        if isinstance(exception, SourceUnavailable) and exception.retry_after is not None:
            asked = min(exception.retry_after, MAX_RETRY_AFTER.total_seconds())
            pause = max(pause, timedelta(seconds=asked))
        return RetryDecision.retry(pause, f"{advice or 'the fault may be transient'}; the next try is in {pause}")

    def _may_be_late(self, context: Any) -> bool:
        end = context and context.get("data_interval_end")
        return bool(end) and datetime.now(UTC) < end + self.late_for


def _failed_trigger(exception: BaseException, context: Any) -> str | None:
    """Whose trigger failed, asked in a new session, because that of the task is at its end."""
    where = exception.diag.context if isinstance(exception, Error) else None
    # Staging tasks have no hook; they write to tables on which nobody else has a trigger.
    get_hook = getattr(context and context["task"], "get_db_hook", None)
    if not where or not get_hook:
        return None
    [trigger] = get_hook().get_first("select pipeline.failed_trigger(%s)", [where])
    return trigger and str(trigger)
