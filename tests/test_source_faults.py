"""A source that misbehaves: what is retried, what fails at once, and that no month is ever short."""

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import psycopg
import pytest
from airflow.sdk import RetryAction
from conftest import Database, Files, RunDag, month_after
from misbehaviour import (
    Answer,
    broken_chunks,
    chunked,
    cut,
    endless,
    hang_up,
    misbehaving,
    packed,
    page,
    redirect,
    reset,
    stall,
    status,
    trickle,
    with_headers,
    without_length,
)
from steps import load_month, stage_file

from company_data import source
from company_data.errors import FileNotYetAvailable, FileRejected, SourceUnavailable
from company_data.retries import STAGING_RETRIES, LoadRetryPolicy
from local.bucket import serve

MONTH = "2024-02-01"
SALES = f"sales/{MONTH}/sales.csv"
CONTENT = "idx,value,date,store_idx\n" + "".join(f"{n},{n}.25,2024-02-{n:02},1\n" for n in range(1, 29))
TOTAL = sum(range(1, 29)) + 28 * 0.25


class FaultyFiles(Files):
    """The bucket's files, with answers to be queued for a path before it behaves again."""

    answers: dict[str, list[Answer]]
    requests: list[str]


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyFiles]:
    folder = tmp_path / "bucket"
    folder.mkdir()
    with misbehaving(folder) as (bucket, answers, requests), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_BASE_URL", bucket.url)
        patch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        files = FaultyFiles(folder, bucket)
        files.answers, files.requests = answers, requests
        files.write("stores.csv", "idx,location\n1,Porto\n")
        files.write(SALES, CONTENT)
        yield files


def total(database: Database) -> object:
    return database.run("select sum(value)::float from monthly_sales")[0][0]


def fetch(files: FaultyFiles, late_until: datetime | None = None) -> bytes:
    with source.open_file(f"{files.bucket.url}/{SALES}", late_until) as download:
        return b"".join(download.chunks())


@pytest.mark.parametrize(
    "fault",
    [
        status(500),
        status(503, Retry_After=0),
        status(429, Retry_After=0),
        hang_up,
        reset(0),
        reset(300),
        cut(0),
        cut(len(CONTENT) - 1),
        broken_chunks(300),
        packed(cut_at=100),
        with_headers(ETag=f'"{"0" * 32}"'),
    ],
)
def test_a_transient_fault_is_retried_by_airflow_until_the_month_is_complete(
    fault: Answer, database: Database, faulty: FaultyFiles, run_dag: RunDag, no_pauses: None
) -> None:
    faulty.answers[SALES] = [fault, fault]
    assert run_dag("sales_load_and_aggregation", month_after("2024-02"), retries=3) == "success"
    assert total(database) == TOTAL
    assert database.run("select outcome from pipeline.loads where table_name = 'sales' order by load_id") == [
        ("failed",),
        ("failed",),
        ("published",),
    ]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (page, 'line 1: this is not CSV but HTML or XML, which begins with "<!DOCTYPE html>"'),
        (status(403), "answers 403 Forbidden"),
        (status(404), "answers 404 Not Found"),
        (status(400), "answers 400 Bad Request"),
        (redirect("http://127.0.0.1:1/x?X-Amz-Signature=hidden"), "redirects to what is not https"),
        (with_headers(Content_Encoding="br"), 'with Content-Encoding "br", and only gzip is supported'),
        (endless, "neither states the length of the file nor sends it in chunks"),
        (without_length(Content_Length="abc"), "neither states the length of the file nor sends it in chunks"),
        (without_length(Content_Length="-5"), "neither states the length of the file nor sends it in chunks"),
        (without_length(Content_Encoding="gzip"), "neither states the length of the file nor sends it in chunks"),
        (without_length(Transfer_Encoding="gzip, chunked"), "neither states the length of the file nor sends it in"),
        (redirect("https://[bad"), "sales.csv: "),
    ],
)
def test_a_permanent_fault_fails_at_once_with_the_address_and_the_reason(
    fault: Answer,
    reason: str,
    database: Database,
    faulty: FaultyFiles,
    run_dag: RunDag,
    no_pauses: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_month(database, MONTH)
    faulty.requests.clear()
    faulty.answers[SALES] = [fault]
    assert run_dag("sales_load_and_aggregation", month_after("2024-02"), retries=3) == "failed"
    assert faulty.requests.count(f"/{SALES}") == 1
    log = capsys.readouterr().out
    assert reason in log
    assert SALES in log
    assert "hidden" not in log
    assert total(database) == TOTAL
    [(outcome, problem)] = database.run(
        "select outcome, problem from pipeline.loads where table_name = 'sales' order by load_id desc limit 1"
    )
    assert outcome == "rejected"
    assert reason in problem


def test_a_refused_connection_is_retried(faulty: FaultyFiles) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{unused.getsockname()[1]}/{SALES}"
        with pytest.raises(SourceUnavailable, match=r"no answer .*Connection refused"), source.open_file(address):
            pass


def test_a_stall_longer_than_the_read_timeout_is_retried(faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "READ_TIMEOUT", 0.3)
    released = threading.Event()
    for at in (0, 10, 300):
        faulty.answers[SALES] = [stall(at, released)]
        with pytest.raises(SourceUnavailable, match=r"timed out"):
            fetch(faulty)
    released.set()


def test_a_body_that_is_cut_at_any_byte_is_never_taken_for_a_complete_one(faulty: FaultyFiles) -> None:
    for at in range(len(CONTENT)):
        for fault in (cut(at), broken_chunks(at)):
            faulty.answers[SALES] = [fault]
            with pytest.raises(SourceUnavailable):
                fetch(faulty)


def test_a_gzipped_body_that_is_cut_at_any_byte_is_never_taken_for_a_complete_one(faulty: FaultyFiles) -> None:
    faulty.answers[SALES] = [packed()]
    assert fetch(faulty) == CONTENT.encode()
    # Zero bytes of gzip unpack to nothing, which is a file without a header.
    for at in range(1, 200):
        faulty.answers[SALES] = [packed(cut_at=at)]
        with pytest.raises(SourceUnavailable):
            fetch(faulty)


@pytest.mark.parametrize("good", [packed(), chunked, with_headers(ETag='W/"1"')])
def test_gzip_and_chunks_load_as_the_plain_file_does(good: Answer, database: Database, faulty: FaultyFiles) -> None:
    load_month(database, MONTH)
    faulty.answers[SALES] = [good]
    load_month(database, MONTH)
    assert total(database) == TOTAL
    assert database.run(
        "select count(distinct sha256), min(bytes) from pipeline.loads where address like '%/sales.csv'"
    ) == [(1, len(CONTENT))]


def test_a_redirect_to_another_host_is_followed(database: Database, faulty: FaultyFiles, tmp_path: Path) -> None:
    with serve(tmp_path / "bucket") as other, pytest.MonkeyPatch.context() as patch:
        both = tmp_path / "both.pem"
        both.write_text(faulty.bucket.ca_file.read_text() + other.ca_file.read_text())
        patch.setenv("SOURCE_CA_FILE", str(both))
        faulty.answers[SALES] = [redirect(f"{other.url.replace('127.0.0.1', 'localhost')}/{SALES}")]
        load_month(database, MONTH)
    assert total(database) == TOTAL


def test_a_certificate_that_does_not_verify_is_rejected(faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_CA_FILE")
    with pytest.raises(FileRejected, match=r"certificate does not verify.*SOURCE_CA_FILE"):
        fetch(faulty)
    monkeypatch.setenv("SOURCE_CA_FILE", "/nowhere.pem")
    with pytest.raises(FileRejected, match=r"SOURCE_CA_FILE is /nowhere.pem.*No such file or directory"):
        fetch(faulty)
    empty = faulty.folder / "empty.pem"
    empty.touch()
    monkeypatch.setenv("SOURCE_CA_FILE", str(empty))
    with pytest.raises(FileRejected, match=r"SOURCE_CA_FILE is .*cannot be used"):
        fetch(faulty)


def test_the_authority_of_the_source_is_independent_of_the_authorities_of_other_requests(
    faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    assert fetch(faulty) == CONTENT.encode()


@pytest.mark.parametrize("server_side", ["aws:kms", None])
def test_the_etag_is_checked_where_it_is_an_md5(server_side: str | None, faulty: FaultyFiles) -> None:
    headers: dict[str, object] = {"ETag": f'"{"0" * 32}"'}
    if server_side:
        faulty.answers[SALES] = [with_headers(**headers, x_amz_server_side_encryption=server_side)]
        assert fetch(faulty) == CONTENT.encode()
    else:
        faulty.answers[SALES] = [with_headers(**headers)]
        with pytest.raises(SourceUnavailable, match="is not the ETag"):
            fetch(faulty)
    faulty.answers[SALES] = [with_headers(ETag=f'"{"0" * 32}-2"')]
    assert fetch(faulty) == CONTENT.encode()


def test_the_file_of_a_month_that_has_just_ended_is_waited_for(
    database: Database, faulty: FaultyFiles, run_dag: RunDag, no_pauses: None
) -> None:
    this_month = f"{datetime.now(UTC):%Y-%m}"
    path = f"sales/{this_month}-01/sales.csv"
    faulty.write(path, f"idx,value,date,store_idx\n1,5,{this_month}-03,1\n")
    faulty.answers[path] = [status(404)] * 12
    assert run_dag("sales_load_and_aggregation", month_after(this_month), retries=15) == "success"
    assert database.run("select value from sales") == [(5,)]
    faulty.answers["stores.csv"] = [status(404)]
    assert run_dag("sales_load_and_aggregation", month_after(this_month), retries=15) == "failed"


def test_the_wait_for_a_late_file_goes_on_through_other_faults(
    database: Database, faulty: FaultyFiles, run_dag: RunDag, no_pauses: None
) -> None:
    this_month = f"{datetime.now(UTC):%Y-%m}"
    path = f"sales/{this_month}-01/sales.csv"
    faulty.write(path, f"idx,value,date,store_idx\n1,5,{this_month}-03,1\n")
    faulty.answers[path] = [*[status(404)] * 12, status(503), hang_up, cut(5)]
    assert run_dag("sales_load_and_aggregation", month_after(this_month), retries=20) == "success"
    assert database.run("select value from sales") == [(5,)]


def test_a_source_that_trickles_is_given_up_at_the_task_s_time_limit_and_recorded(
    database: Database, faulty: FaultyFiles, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    from company_data import settings

    monkeypatch.setitem(settings.TASK_DEFAULTS, "execution_timeout", timedelta(seconds=3))
    faulty.answers[SALES] = [trickle]
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "failed"
    [(outcome, problem)] = database.run("select outcome, problem from pipeline.loads")
    assert outcome == "failed"
    assert f"{SALES}: the file was not complete when the task's time limit was reached" in problem


@pytest.mark.parametrize(
    "error", [psycopg.errors.InvalidTextRepresentation(), psycopg.errors.ReadOnlySqlTransaction(), ValueError("x")]
)
def test_what_a_retry_would_find_again_fails_at_once(error: Exception) -> None:
    decision = LoadRetryPolicy(STAGING_RETRIES).evaluate(error, try_number=1, max_tries=STAGING_RETRIES)
    assert decision.action is RetryAction.FAIL


def test_a_missing_file_is_late_for_a_week_and_then_an_error(faulty: FaultyFiles) -> None:
    now = datetime.now(UTC)
    faulty.answers[SALES] = [status(404), status(404)]
    with pytest.raises(FileNotYetAvailable, match="the task requests it again until"):
        fetch(faulty, late_until=now + timedelta(minutes=1))
    with pytest.raises(FileRejected, match="404 Not Found"):
        fetch(faulty, late_until=now - timedelta(minutes=1))


@pytest.mark.parametrize("number", [429, 503])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(number: int, faulty: FaultyFiles) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for value, least, most in (("1800", 1800, 1800), (soon, 3590, 3600), ("9" * 30, 21600, 21600), ("soon", 30, 30)):
        faulty.answers[SALES] = [status(number, Retry_After=value)]
        with pytest.raises(SourceUnavailable) as failure:
            fetch(faulty)
        decision = LoadRetryPolicy(STAGING_RETRIES).evaluate(failure.value, try_number=1, max_tries=STAGING_RETRIES)
        assert decision.retry_delay is not None
        assert least <= decision.retry_delay.total_seconds() <= most


def test_pauses_grow_and_a_late_file_is_requested_for_over_a_week(faulty: FaultyFiles) -> None:
    policy = LoadRetryPolicy(STAGING_RETRIES)

    def pauses(error: Exception) -> list[timedelta]:
        found = []
        for attempt in range(1, STAGING_RETRIES + 1):
            # As if the task had been cleared after 7 earlier tries.
            decision = policy.evaluate(error, try_number=attempt + 7, max_tries=STAGING_RETRIES + 7)
            if decision.retry_delay is None:
                break
            found.append(decision.retry_delay)
        return found

    late, transient = pauses(FileNotYetAvailable("late", datetime.now(UTC))), pauses(SourceUnavailable("gone"))
    assert late == sorted(late)
    assert late[0] == timedelta(minutes=15)
    assert sum(late, timedelta()) > timedelta(days=7)
    assert transient == sorted(transient)
    assert transient[0] == timedelta(seconds=30)
    assert timedelta(minutes=30) < sum(transient, timedelta()) < timedelta(hours=3)


def test_credentials_in_the_address_stay_out_of_messages(faulty: FaultyFiles) -> None:
    faulty.answers[SALES] = [status(403)]
    address = f"{faulty.bucket.url}/{SALES}".replace("https://", "https://reader:hidden@")
    with pytest.raises(FileRejected) as failure, source.open_file(address):
        pass
    assert "hidden" not in str(failure.value)
    assert "reader" not in str(failure.value)


def test_a_failed_download_leaves_no_transaction_behind(database: Database, faulty: FaultyFiles) -> None:
    load_month(database, MONTH)
    faulty.answers[SALES] = [cut(200)]
    with pytest.raises(SourceUnavailable):
        stage_file(database, SALES, "sales", MONTH)
    assert database.run("select count(*) from pg_stat_activity where usename = 'pipeline'") == [(0,)]
    assert database.run("select outcome from pipeline.loads order by load_id desc limit 1") == [("failed",)]
    assert database.run("select to_regclass(staged_table) from pipeline.loads order by load_id desc limit 1") == [
        (None,)
    ]
