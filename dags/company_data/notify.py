"""Tells a person that a task has failed for good, or that a month is overdue: by e-mail, to a webhook, or both.

Without a receiver in the settings nothing is sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from company_data.settings import notify_email, notify_webhook_url, sales_deadline

log = logging.getLogger(__name__)

NO_REASON = "The task's process ended without a word: it was killed, or its machine went away."

CONNECT_SECONDS, READ_SECONDS = 10, 30
WEBHOOK_PAUSES = (2, 10)  # seconds before the second and the third try


class NotSent(RuntimeError):
    """A receiver was not reached; the message says which and why, without the secrets in its address."""


@dataclass(frozen=True)
class Message:
    """What a person is told; the webhook gets these fields as JSON, and the same as one text.

    Attributes:
        event: "failed" or "overdue".
        dag: the DAG's id.
        run: the run's id.
        month: the month of the data (YYYY-MM), where the run has one.
        task: the task that failed.
        reason: what happened, as the task's log says it.
        link: where to look in Airflow's UI.
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
        """The message in a line."""
        what = f"{self.task} failed" if self.task else f"{self.event}"
        return f"{self.dag}, {self.month or self.run}: {what}"

    @property
    def text(self) -> str:
        """The message whole."""
        return f"{self.subject}\n\n{self.reason}\n\n{self.link}"


def tell_failure(context: Any) -> None:
    """Tell that a task has failed and is not tried again: its on_failure_callback.

    Runs in the task's process, which knows the exception; where that was killed, in the DAG processor.
    """
    dag_id, run_id, error = context["dag"].dag_id, context["run_id"], context.get("exception")
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    send(
        Message(
            event="failed",
            dag=dag_id,
            run=run_id,
            month=f"{start:%Y-%m}" if start and start != end else None,
            task=context["ti"].task_id,
            reason=f"{type(error).__name__}: {error}" if error else NO_REASON,
            link=context["ti"].log_url,
        )
    )


def overdue_alert() -> DeadlineAlert | None:
    """The deadline of a month's load, where somebody is to be told.

    Counted from when the run was queued: months that are caught up late, or loaded anew, are not overdue for that.
    """
    if not (notify_email() or notify_webhook_url()):
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=sales_deadline(),
        callback=SyncCallback(tell_overdue),
    )


def tell_overdue(context: Mapping[str, Any]) -> None:
    """Tell that a month is not loaded by its deadline; Airflow's executor calls this once a run."""
    run, deadline = context["dag_run"], context["deadline"]["deadline_time"]
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    ui = conf.get("api", "base_url", fallback="").rstrip("/")
    send(
        Message(
            event="overdue",
            dag=dag_id,
            run=run_id,
            month=run["data_interval_start"][:7],
            task=None,
            reason=f"The month is not loaded by {str(deadline)[:16].replace('T', ' ')} UTC, its deadline; its run is {run['state']}.",
            link=f"{ui}/dags/{dag_id}/runs/{quote(run_id)}",
        )
    )


def send(message: Message) -> None:
    """Send a message to each receiver that is set.

    Raises:
        NotSent: some receiver was not reached; the others were told.
    """
    message = replace(message, reason=str(redact(message.reason)))
    problems = []
    for receiver, deliver in ((notify_email(), send_email), (notify_webhook_url(), post_to_webhook)):
        if receiver:
            try:
                deliver(receiver, message)
            except Exception as error:
                problems.append(f"{deliver.__name__}: {error}")
    if problems:
        raise NotSent(f'Nobody was told of "{message.subject}" by {"; ".join(problems)}')


def send_email(receivers: str, message: Message) -> None:
    """Send an e-mail through the connection smtp_default, to one address or several with commas between them."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook  # each task imports this module, few send a message

    html = f'<p>{escape(message.reason)}</p><p><a href="{escape(message.link)}">{escape(message.link)}</a></p>'
    with SmtpHook() as server:
        server.send_email_smtp(to=receivers, subject=f"[company data] {message.subject}", html_content=html)


def post_to_webhook(url: str, message: Message) -> None:
    """Post a message as JSON; "text" is what chat services show.

    Raises:
        NotSent: it was not taken, also at the third time.
    """
    host = urlsplit(url).hostname  # and no more of it anywhere: the address of a webhook is its password
    body = {"text": message.text, **asdict(message)}
    for pause in (*WEBHOOK_PAUSES, None):
        try:
            answer = requests.post(url, json=body, timeout=(CONNECT_SECONDS, READ_SECONDS))
            if answer.ok:
                return
            problem = f"{host} answers {answer.status_code}"
        except requests.RequestException as error:
            problem = f"{host} does not answer ({type(error).__name__})"
        if pause is None:
            raise NotSent(problem)
        time.sleep(pause)
