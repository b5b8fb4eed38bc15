"""A failed load and overdue months are notified once, by mail and by webhook, and only if a receiver is set."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.log import mask_secret
from conftest import Database, Files
from support.airflow_runs import run_dag
from support.bucket_files import write_customers, write_month
from support.faulty_bucket import misbehaving, status
from support.receivers import mail_server, webhook
from support.steps import CUSTOMERS, MAINTENANCE, SALES, load_month

from company_data import notifier
from company_data.settings import sales_deadline
from embedded.postgres import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]

TOKEN = "/services/a-secret-path"

GOOD, BAD = "1,1,2024-02-01,1", '2,"{{ 1/0 }} <b>",2024-02-01,1'


@dataclass
class Sent:
    """What the receivers got."""

    mails: list[EmailMessage]
    receivers: list[list[str]]
    posted: list[dict[str, Any]]
    statuses: list[int]


@pytest.fixture
def sent(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """Both receivers, switched on. The source and the webhook have certificates of different authorities."""
    monkeypatch.setattr(notifier, "WEBHOOK_PAUSES", (0, 0))
    statuses: list[int] = []
    with mail_server() as mail, webhook(tmp_path, statuses) as (server, posted):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mail.connection)
        monkeypatch.setenv("NOTIFY_EMAIL", "data@here, operator@here")
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", server.url + TOKEN)
        yield Sent(mail.mails, mail.receivers, posted, statuses)


def body_of(mail: EmailMessage) -> str:
    body = mail.get_body()
    assert body is not None
    return str(body.get_content())


def run_month(files: Files, *rows: str, retries: int = 0) -> str:
    write_month(files, "2024-02", *rows)
    return run_dag(SALES, "2024-02", retries=retries)


def test_a_month_that_fails_is_notified_by_mail_and_webhook_and_the_reason_ends_its_log(
    database: Database, files: Files, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    sent.statuses[:] = [404] * 3  # the webhook takes none
    assert run_month(files, GOOD, BAD) == "failed"
    *_, logged = [record.getMessage() for record in caplog.records if record.name.endswith("notifier")]

    post, *again = sent.posted
    assert again == [post] * 2
    assert post["path"] == TOKEN
    assert (post["event"], post["dag"], post["month"], post["task"]) == ("failed", SALES, "2024-02", "stage_sales")
    for reason in (post["reason"], logged):
        assert reason.startswith("sales/2024-02-01/sales.csv, line 3, column value: ")
        assert '"{{ 1/0 }} <b>" is not a decimal number' in reason
    assert f"/dags/{SALES}/runs/" in post["link"]
    assert post["link"].split("?")[0].endswith("/tasks/stage_sales")
    assert post["text"].startswith(f"{SALES}, 2024-02: stage_sales failed\n\n```\nsales/")

    [mail], [receivers] = sent.mails, sent.receivers
    assert mail["Subject"] == f"[company data] {SALES}, 2024-02: stage_sales failed"
    assert (mail["From"], receivers) == ("airflow@here", ["data@here", "operator@here"])
    assert "&quot;{{ 1/0 }} &lt;b&gt;&quot;" in body_of(mail)
    assert post["link"] in body_of(mail)


def test_nothing_is_sent_of_a_load_that_succeeds_at_its_second_try_or_without_a_receiver(
    database: Database, files: Files, sent: Sent, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with misbehaving(files.folder) as (bucket, answers, requests):
        monkeypatch.setenv("SOURCE_BASE_URL", bucket.url)
        monkeypatch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        answers["sales/2024-02-01/sales.csv"] = [status(503)]
        assert run_month(files, GOOD, retries=3) == "success"
        assert len(requests) == 3  # the month twice, the stores
        monkeypatch.setenv("NOTIFY_EMAIL", "")
        monkeypatch.delenv("NOTIFY_WEBHOOK_URL")
        assert run_month(files, GOOD, BAD) == "failed"
    assert (sent.mails, sent.posted) == ([], [])


def test_customer_data_has_no_month_and_names_its_run(database: Database, files: Files, sent: Sent) -> None:
    write_customers(files, labels=["1,0", "1,1"])
    assert run_dag(CUSTOMERS) == "failed"
    [post] = sent.posted
    assert (post["month"], post["task"]) == (None, "check_customers")
    assert post["text"].startswith(f"customer_data_load, {post['run']}: check_customers failed")
    assert "clients with two different labels: 1" in post["reason"]


MESSAGE = notifier.Message("failed", SALES, "scheduled__2024-02", "2024-02", "check_month", "why", "http://ui")


def test_a_webhook_has_three_tries_and_one_that_fails_does_not_stop_the_mail_and_stays_secret(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent.statuses[:] = [500, 429]
    notifier.send(MESSAGE)
    assert [post["reason"] for post in sent.posted] == ["why"] * 3
    sent.statuses[:] = [404] * 3
    for number, answer in enumerate(("returned 404", "did not answer"), 2):
        with pytest.raises(notifier.NotificationError, match=f"127.0.0.1 {answer}") as caught:
            notifier.send(MESSAGE)
        assert TOKEN not in str(caught.value)
        assert len(sent.mails) == number
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", f"https://127.0.0.1:{free_port()}{TOKEN}")


MARKUP = "<!channel> <https://evil.example|the month> [x](https://evil.example) ![y](z) *b* `c` ``` @here &lt; &amp;"


def test_what_a_reason_quotes_is_no_secret_and_neither_a_link_nor_a_mention_nor_markdown_in_a_chat(sent: Sent) -> None:
    mask_secret("a-password-of-a-connection")
    notifier.send(replace(MESSAGE, reason=f'"{MARKUP}" is not a-password-of-a-connection'))
    [post] = sent.posted
    assert post["reason"] == f'"{MARKUP}" is not ***'
    assert post["text"] == (
        "sales_load_and_aggregation, 2024-02: check_month failed\n\n```\n"
        "\"&lt;!channel&gt; &lt;https://evil.example|the month&gt; [x](https://evil.example) ![y](z) *b* 'c' "
        "''' @here &amp;lt; &amp;amp;\" is not ***\n```\n\nhttp://ui"
    )
    assert "a-password-of-a-connection" not in body_of(sent.mails[0])


def test_a_message_is_cut_and_has_no_control_characters(sent: Sent) -> None:
    reason = "a\x1b[31mb\r\n```\n# c\u2028d\x00e\u202ef" + "x" * 5_000_000
    notifier.send(replace(MESSAGE, reason=reason, run="manual\r\nBcc: x@here", month=None))
    [post], [mail] = sent.posted, sent.mails
    assert post["reason"].startswith(r"a\x1b[31mb ``` # c d\x00e\u202efxxx")
    assert len(post["reason"]) == 3_001
    assert post["run"] == "manual Bcc: x@here"
    assert post["text"].count("```") == 2
    assert mail["Subject"] == f"[company data] {SALES}, manual Bcc: x@here: check_month failed"
    assert (mail["Bcc"], sent.receivers) == (None, [["data@here", "operator@here"]])
    assert max(len(post["text"]), len(body_of(mail))) < 5_000


def test_a_failed_month_is_notified_once_and_overdue_months_by_the_maintenance(
    database: Database, files: Files, sent: Sent
) -> None:
    # Scheduled from 2023-11 on. The time for all of them is counted from the first load.
    write_month(files, "2024-02", GOOD)
    load_month(database, "2024-02-01")
    assert run_dag(MAINTENANCE) == "success"
    assert sent.posted == []
    database.run("update pipeline.loads set started_at = '2024-03-01' where load_id = 1")
    write_month(files, "2024-01", BAD)
    assert run_dag(SALES, "2024-01") == "failed"
    assert run_dag(MAINTENANCE) == "success"
    failed, overdue = sent.posted
    assert (failed["event"], failed["month"], len(sent.mails)) == ("failed", "2024-01", 2)
    assert (overdue["event"], overdue["dag"], overdue["month"]) == ("overdue", MAINTENANCE, None)
    listed = overdue["reason"].partition(" months are overdue: ")[2].split("; ")
    assert listed[:2] == ["sales 2023-11 (missing)", "sales 2023-12 (missing)"]
    assert listed[2].startswith("sales 2024-01 (rejected: sales/2024-01-01/sales.csv, line 2, column value: ")
    assert "2024-02" not in overdue["reason"]


@pytest.mark.parametrize("hours", ["-1", "1e9", "nan"])
def test_a_deadline_that_is_no_number_of_hours_is_rejected(hours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALES_DEADLINE_HOURS", hours)
    with pytest.raises(ValueError, match=f'SALES_DEADLINE_HOURS is "{hours}"'):
        sales_deadline()
