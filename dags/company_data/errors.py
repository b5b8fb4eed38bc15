"""Why a load stops: the class says whether a retry can help. And how foreign text is shown in a message."""

import re
from datetime import datetime

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

# Letters, marks and symbols that have no ink: str.isprintable() accepts them.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def shown(text: str | bytes, limit: int = 60) -> str:
    """Foreign text for a message: what is invisible, or is invalid UTF-8, is escaped as in Python.

    Args:
        text: the text, or its bytes.
        limit: characters after which it is cut.
    """
    if isinstance(text, bytes):
        text = text[: 4 * (limit + 1)].decode(errors="backslashreplace")
    end = "…" if len(text) > limit else ""
    return "".join(each if _is_visible(each) else each.encode("unicode_escape").decode() for each in text[:limit]) + end


def _is_visible(character: str) -> bool:
    return character.isprintable() and not _BLANK.match(character)


class FileRejected(AirflowFailException):
    """The file, its address or its server breaks the contract: a retry would find the same."""


class FileMissing(FileRejected):
    """The server has no such file, or does not show it: 404 or 403."""


class NotInSource(AirflowSkipException):
    """The month lies before the first one of which the source has a file, so there is nothing to load."""


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
