"""When a failed task tries again, and after how long."""

from datetime import timedelta
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

LOCKED = (
    "another transaction held a lock for longer than lock_timeout, so nothing was changed; pg_stat_activity and "
    "pg_blocking_pids() show which. Nothing needs to be done unless this repeats"
)
BAD = "the data or the SQL is wrong and would be at the next try; mend the cause, then clear the task"


class LoadRetryPolicy(RetryPolicy):
    """Fails at once where a retry would find the same, and pauses longer before each other try.

    Airflow does not ask the policy about FileRefused: as an AirflowFailException it always fails at once.
    """

    def __init__(self, retries: int) -> None:
        """Take the task's own number of retries, from which the tries since it was cleared are told."""
        self.retries = retries

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Any = None,
    ) -> RetryDecision:
        """Decide on one failure; see RetryPolicy."""
        if isinstance(exception, (errors.DataError, errors.IntegrityError, errors.ProgrammingError)):
            return RetryDecision.fail(BAD)
        # Clearing a task raises max_tries and goes on counting, so that only the difference tells.
        tries = try_number - max(max_tries - self.retries, 0)
        patient = isinstance(exception, FileNotThereYet)
        if tries >= TRANSIENT_TRIES and not patient:
            return RetryDecision.fail(f"it failed {tries} times; mend the cause, then clear the task")
        first, longest = PAUSES[FileNotThereYet if patient else Exception]
        pause = min(first * 2 ** min(tries - 1, MOST_DOUBLINGS), longest)
        if isinstance(exception, SourceUnavailable) and exception.retry_after is not None:
            pause = max(pause, min(timedelta(seconds=exception.retry_after), LONGEST_RETRY_AFTER))
        why = LOCKED if isinstance(exception, errors.LockNotAvailable) else "this may pass by itself"
        return RetryDecision.retry(pause, f"{why}; the next try is in {pause}")
