"""What a task does with the rows that its SQL returns."""

from typing import Any

from airflow.sdk.exceptions import AirflowSkipException


def skip_unless_true(cursor: Any) -> None:
    """Skip the task, and with it the tasks that follow, unless the first value of the first row is true.

    Raises:
        AirflowSkipException: it is not.
    """
    (needed,) = cursor.fetchone()
    if not needed:
        raise AirflowSkipException("There is nothing to do.")
