"""Why a load stops. The class says whether a retry can help."""

from datetime import datetime

from airflow.sdk.exceptions import AirflowException, AirflowFailException


class FileRejected(AirflowFailException):
    """The file, its address or its server breaks the contract: a retry would find the same."""


class SourceUnavailable(AirflowException):
    """The network or the server failed: the next try may succeed.

    Attributes:
        retry_after: seconds that the server asks to wait, if it does.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        """Keep what the server asked for beside the message."""
        super().__init__(message)
        self.retry_after = retry_after


class FileNotYetAvailable(SourceUnavailable):
    """The month has just ended and its file may come late: worth waiting for, for days.

    Attributes:
        waits_until: the moment at which the task gives up.
    """

    def __init__(self, message: str, waits_until: datetime) -> None:
        """Keep the limit beside the message."""
        super().__init__(message)
        self.waits_until = waits_until
