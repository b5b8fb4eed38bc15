"""Notifies of a task that has failed for good, of an unusual file and of overdue months: by e-mail, to a webhook, or both.

Without a receiver in the settings nothing is sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any
from urllib.parse import urlsplit

import psycopg
import requests
from airflow.providers.common.compat.sdk import redact
from airflow.sdk import BaseNotifier, get_current_context, task
from airflow.sdk.exceptions import AirflowException

from company_data.http_client import Session, one_line
from company_data.settings import notify_email, notify_webhook_url

log = logging.getLogger(__name__)

NO_REASON = "The process of the task ended without an exception: it was killed, or its machine failed."

SUBJECTS = {
    "overdue": "months are overdue",
    "pending_approval": "an unusual file waits for a decision",
    "unusual": "an unusual file was published",
}

MAX_REASON, MAX_FIELD = 3_000, 1_000  # characters

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # seconds
WEBHOOK_PAUSES = (2, 10)  # seconds before the second and the third try


class NotificationError(RuntimeError):
    """A receiver was not reached. The message says which and why, without the secrets in its address."""


@dataclass(frozen=True)
class Message:
    """One notification. The webhook gets these fields as JSON, and `text` beside them.

    Attributes:
        event: "failed", "overdue" for months that are not loaded in time, "pending_approval" for an unusual file that waits for a decision, or "unusual" for one
            that is published without one.
        dag: id of the DAG.
        run: id of the run.
        month: month of the data (YYYY-MM), if the run has one.
        task: the task that failed.
        reason: what happened, why that stops the load, and what to do.
        link: page of the task or run in Airflow's UI.
    """

    event: str
    dag: str
    run: str
    month: str | None
    task: str | None
    reason: str
    link: str

    @property
    def subject(self) -> str:
        """The message in one line."""
        what = SUBJECTS.get(self.event) or f"{self.task} failed"
        return f"{self.dag}, {self.month or self.run}: {what}"

    @property
    def text(self) -> str:
        """The whole message, for a chat service. What it quotes of a file is no link, no mention and no Markdown there."""
        # Slack and those that imitate it read <url|text> and <!channel> also in a code block, and Markdown and @here
        # outside of one. So the reason is one line of code that cannot end the block, and <, > and & are as Slack
        # documents: another service shows them as &lt;, and the field "reason" has them as they are.
        reason = escape(self.reason.replace("`", "'"), quote=False)
        return f"{escape(self.subject, quote=False)}\n\n```\n{reason}\n```\n\n{self.link}"

    def cleaned(self) -> Message:
        """The same message without secrets that Airflow knows of; each field one line, cut, without invisible characters."""
        fields = {name: value and one_line(str(redact(value)), MAX_FIELD) for name, value in asdict(self).items()}
        return Message(**{**fields, "reason": one_line(str(redact(self.reason)), MAX_REASON)})


class LoadNotifier(BaseNotifier):
    """Sends one message to each receiver for a failed task, as its on_failure_callback.

    Airflow calls it in the process of the task, or in the DAG processor if that process and its supervisor died. It does
    not call it for a task whose process alone is killed in its last try (3.3.2).
    """

    def notify(self, context: Any) -> None:
        """Send the message.

        Raises:
            NotificationError: some receiver was not reached. The others got the message.
        """
        send(failure_message(context))


def log_reason(context: Mapping[str, Any]) -> None:
    """End the log of a failed try with its reason, which Airflow logs above a traceback."""
    log.info("::endgroup::")  # of Airflow's last lines, which its UI shows only to those who open them
    log.error("%s", reason_of(context.get("exception")))


# Of every task; the reason is logged after a notification that may fail itself.
CALLBACKS: dict[str, Any] = {
    "on_failure_callback": [LoadNotifier(), log_reason],
    "on_retry_callback": log_reason,
}


def reason_of(error: BaseException | None) -> str:
    """What happened, why that stops the load, and what to do."""
    if not error:
        return NO_REASON
    text = str(error)
    if isinstance(error, psycopg.Error):
        text = text.partition("\nCONTEXT:")[0]  # which names functions of the pipeline
    elif not isinstance(error, AirflowException):
        text = f"{type(error).__name__}: {text}"  # an error that has no sentence, such as KeyError
    return "\n".join([text, *getattr(error, "__notes__", [])])


@task
def notify_overdue(found: Any) -> None:
    """Send one message about the months that sql/maintenance/find_overdue_months.sql has found, if there are any.

    Args:
        found: its only row, a text that begins with the number of months.
    """
    [[text]] = found
    if not text.startswith("0 "):
        try_to_send(replace(failure_message(get_current_context()), event="overdue", month=None, reason=text))


def failure_message(context: Mapping[str, Any]) -> Message:
    """The message for a task that has failed and is not tried again."""
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    return Message(
        event="failed",
        dag=context["dag"].dag_id,
        run=context["run_id"],
        month=f"{start:%Y-%m}" if start and start != end else None,
        task=context["ti"].task_id,
        reason=reason_of(context.get("exception")),
        link=context["ti"].log_url,
    )


def anomaly_message(context: Mapping[str, Any], anomalies: str, published_by: str | None) -> Message:
    """The message for an unusual file.

    Args:
        context: that of the task.
        anomalies: what is unusual.
        published_by: the value of ON_ANOMALY by which it is published; None if a person is asked.
    """
    if published_by:
        event, outcome = "unusual", f"It is published without a decision (ON_ANOMALY={published_by})."
    else:
        event, outcome = "pending_approval", "Nothing is published until it is approved under Required Actions."
    return replace(failure_message(context), event=event, reason=f"The file is unusual: {anomalies}. {outcome}")


def send(message: Message) -> None:
    """Send a message to each receiver that is set, as Message.cleaned has it.

    Raises:
        NotificationError: some receiver was not reached. The others got the message.
    """
    message = message.cleaned()
    problems = []
    for receiver, deliver in ((notify_email, send_email), (notify_webhook_url, post_to_webhook)):
        try:
            if address := receiver():
                deliver(address, message)
        except Exception as error:
            problems.append(f"{deliver.__name__}: {error}")
    if problems:
        raise NotificationError(f'"{message.subject}" was not sent by {"; ".join(problems)}')


def try_to_send(message: Message) -> None:
    """Send a message, and write to the log which receiver was not reached; the task continues."""
    try:
        send(message)
    except NotificationError as error:
        log.warning("%s", error)


def send_email(receivers: str, message: Message) -> None:
    """Send an e-mail through the connection smtp_default, to addresses separated by commas.

    Not by SmtpNotifier, which renders its text as a template: the reason quotes files, and may contain braces.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook  # each task imports this module, few send a message

    html = f'<p>{escape(message.reason)}</p><p><a href="{escape(message.link)}">{escape(message.link)}</a></p>'
    with SmtpHook() as server:
        server.send_email_smtp(to=receivers, subject=f"[company data] {message.subject}", html_content=html)


def post_to_webhook(url: str, message: Message) -> None:
    """Post a message as JSON; chat services show "text".

    Not by urllib3's Retry, which logs the path of each address that it tries again: the path of a webhook is a secret.

    Raises:
        NotificationError: the webhook did not accept it in three tries.
    """
    host = urlsplit(url).hostname
    body = {"text": message.text, **asdict(message)}
    for pause in (*WEBHOOK_PAUSES, None):
        try:
            # With stream=True nothing of the answer's body is read.
            timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
            with Session() as session, session.post(url, json=body, stream=True, timeout=timeout) as answer:
                if answer.ok:
                    return
                problem = f"{host} returned {answer.status_code}"
        except requests.RequestException as error:
            problem = f"{host} did not answer ({type(error).__name__})"
        if pause is None:
            raise NotificationError(problem)
        time.sleep(pause)
