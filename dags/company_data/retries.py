"""When a failed task tries again, and after how long."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy
from psycopg import errors

from company_data.errors import FileNotThereYet, SourceUnavailable

# A file that is late is asked for about 30 times in the week after its month, see PAUSES.
STAGING_RETRIES = 40
SQL_RETRIES = 9

# Tries after which a fault of the network or of a server is no passing one: a good hour in all.
TRANSIENT_TRIES = 10

# (first pause, longest pause); each is twice the one before.
PAUSES = {
    FileNotThereYet: (timedelta(minutes=15), timedelta(hours=6)),
    Exception: (timedelta(seconds=30), timedelta(minutes=15)),
}
MOST_DOUBLINGS = 10  # more would be no timedelta, and the longest pause is reached by then
LONGEST_RETRY_AFTER = timedelta(hours=6)

# How long after its month a sales file may come late.
LATE_FOR = timedelta(days=7)

# What a retry would only find again: bad data, bad SQL, a read-only database, a mistake in the code.
LASTING = (
    errors.DataError,
    errors.IntegrityError,
    errors.ProgrammingError,
    errors.NotSupportedError,
    errors.ReadOnlySqlTransaction,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
ADVICE: dict[type[Exception], str] = {
    errors.LockNotAvailable: (
        "another transaction held a lock for longer than lock_timeout, so nothing was changed; pg_stat_activity and "
        "pg_blocking_pids() show which. Nothing needs to be done unless this repeats"
    ),
    errors.QueryCanceled: "a statement took longer than statement_timeout or was cancelled, so nothing was changed",
    errors.DiskFull: "the disk of the database is full, so nothing was changed; make room on it",
}


class LoadRetryPolicy(RetryPolicy):
    """Fails at once where a retry would find the same, and pauses longer before each other try.

    Airflow does not ask the policy about FileRefused: as an AirflowFailException it always fails at once.
    """

    def __init__(self, retries: int, late_for: timedelta = timedelta()) -> None:
        """Set the limits.

        Args:
            retries: the task's own number of retries, from which the tries since it was cleared are told.
            late_for: how long after the data interval the task goes on trying, whatever passing fault it meets.
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
        """Decide on one failure; see RetryPolicy."""
        if isinstance(exception, LASTING):
            return RetryDecision.fail("the next try would find the same; mend the cause, then clear the task")
        # Clearing a task raises max_tries and goes on counting, so that only the difference tells.
        tries = try_number - max(max_tries - self.retries, 0)
        patient = isinstance(exception, FileNotThereYet) or (tries >= TRANSIENT_TRIES and self._may_be_late(context))
        if tries >= TRANSIENT_TRIES and not patient:
            return RetryDecision.fail(f"it failed {tries} times; mend the cause, then clear the task")
        first, longest = PAUSES[FileNotThereYet if patient else Exception]
        pause = min(first * 2 ** min(tries - 1, MOST_DOUBLINGS), longest)
        if isinstance(exception, SourceUnavailable) and exception.retry_after is not None:
            asked = min(exception.retry_after, LONGEST_RETRY_AFTER.total_seconds())
            pause = max(pause, timedelta(seconds=asked))
        advice = next((text for kind, text in ADVICE.items() if isinstance(exception, kind)), "this may pass by itself")
        return RetryDecision.retry(pause, f"{advice}; the next try is in {pause}")

    def _may_be_late(self, context: Any) -> bool:
        end = context and context.get("data_interval_end")
        return bool(end) and datetime.now(UTC) < end + self.late_for
