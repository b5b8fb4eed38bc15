"""A source that misbehaves: what is retried, what fails at once, and that no month is ever short."""

import base64
import gzip
import os
import re
import signal
import threading
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import psycopg
import pytest
from airflow.sdk import RetryAction, RetryDecision
from conftest import CONTENT, FAULTY_MONTH, FAULTY_PATH, Database, FaultyFiles
from support import csv_text
from support.airflow_runs import dag_bag, run_dag
from support.breakpoints import wait_until_nothing_is_left
from support.faulty_bucket import (
    Answer,
    broken_chunks,
    chunked,
    cut,
    hang_up,
    packed,
    redirect,
    reset,
    s3_error,
    stall,
    status,
    stored,
    trickle,
    with_headers,
    without_length,
)
from support.steps import CUSTOMERS, SALES, stage_file

from company_data import retries, source, staging
from company_data.errors import FileMissing, FileNotYetAvailable, FileRejected, SourceUnavailable
from company_data.retries import STAGING_RETRIES, LoadRetryPolicy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]


def test_transient_faults_are_retried_by_airflow_and_a_permanent_one_fails_at_once_with_address_and_reason(
    database: Database, faulty: FaultyFiles, no_pauses: None, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty.answers[FAULTY_PATH] = [status(503, Retry_After=0), reset(300), cut(len(CONTENT) - 1)]
    assert run_dag(SALES, "2024-02", retries=3) == "success"
    total = [(sum(range(1, 29)) + 28 * 0.25,)]
    assert database.run("select sum(value)::float from monthly_sales") == total
    statuses = database.run("select status from pipeline.loads where source_url like '%/sales.csv' order by load_id")
    assert statuses == [*[("failed",)] * 3, ("published",)]

    faulty.requests.clear()
    faulty.answers[FAULTY_PATH] = [redirect("http://127.0.0.1:1/x?X-Amz-Signature=hidden")]
    assert run_dag(SALES, "2024-02", retries=3) == "failed"
    assert faulty.requests.count(f"/{FAULTY_PATH}") == 1
    log = capsys.readouterr().out
    assert f"{FAULTY_PATH}: the server redirects to what is not https" in log
    assert "hidden" not in log
    assert database.run("select sum(value)::float from monthly_sales") == total
    [(error,)] = database.run("select error from pipeline.loads where status = 'rejected'")
    assert "redirects to what is not https" in error


def test_a_stall_longer_than_the_read_timeout_is_retried(faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "READ_TIMEOUT", 0.3)
    released = threading.Event()
    for at in (0, 300):
        with pytest.raises(SourceUnavailable, match=r"timed out"):
            faulty.fetch(stall(at, released))
    released.set()


def test_a_body_that_is_cut_at_any_byte_is_never_taken_for_a_complete_one(faulty: FaultyFiles) -> None:
    content = csv_text.sales("1,1.25,2024-02-01,1")
    faulty.write(FAULTY_PATH, content)
    # Zero bytes of gzip decompress to nothing, which is a file without a header.
    faults = [packed(cut_at=at) for at in range(1, len(gzip.compress(content.encode())))]
    for at in range(len(content)):
        faults += [cut(at), broken_chunks(at)]
    for fault in faults:
        with pytest.raises(SourceUnavailable):
            faulty.fetch(fault)


def test_gzip_and_chunks_load_as_the_plain_file_does_and_a_failed_download_leaves_no_transaction(
    database: Database, faulty: FaultyFiles
) -> None:
    faulty.answers[FAULTY_PATH] = [cut(200)]
    with pytest.raises(SourceUnavailable, match=re.escape(FAULTY_PATH)):
        stage_file(database, "sales", FAULTY_MONTH)
    wait_until_nothing_is_left(database)
    assert database.run("select status, to_regclass(staged_table) from pipeline.loads") == [("failed", None)]
    for answer in (with_headers(), packed(), chunked, with_headers(ETag='W/"1"')):
        faulty.answers[FAULTY_PATH] = [answer]
        stage_file(database, "sales", FAULTY_MONTH)
    [loads] = database.run("select count(distinct sha256), min(bytes), max(bytes), min(row_count) from pipeline.loads")
    assert loads == (1, len(CONTENT), len(CONTENT), 28)


def damaged(at: int) -> bytes:
    """The file as gzip, with one byte changed."""
    data = bytearray(gzip.compress(CONTENT.encode(), mtime=0))
    data[at] ^= 0xFF
    return bytes(data)


def test_a_coding_is_ignored_or_undone_and_what_cannot_be_unpacked_fails_at_once(faulty: FaultyFiles) -> None:
    plain, body = CONTENT.encode(), gzip.compress(CONTENT.encode())
    for content, header in (
        *((plain, each) for each in ("identity", "AWS-Chunked, utf-8", "")),
        *((body, each) for each in ("X-GZIP", "aws-chunked,gzip")),
    ):
        assert faulty.fetch(stored(content, Content_Encoding=header)) == plain
    for content, header, message in (
        *((plain, each, f'Encoding "{each}", and only gzip is supported') for each in ("br", "gzip, gzip")),
        (plain, "gzip", "it begins with 'idx,value,date,store_"),
        (damaged(40), "gzip", "the gzip data is damaged .Error -3 while decompressing"),
        (damaged(-6), "gzip", "the gzip data is damaged .CRC check failed"),
        (body + b"more", "gzip", "the gzip data is damaged .Not a gzipped file"),
    ):
        with pytest.raises(FileRejected, match=message):
            faulty.fetch(stored(content, Content_Encoding=header))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


CHECKSUMS = {
    # Of "123456789": the check values in the catalogue of CRC algorithms and in RFC 1321, RFC 3174, FIPS 180.
    "x_amz_checksum_crc32": "cbf43926",
    "x_amz_checksum_sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "x_amz_checksum_sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    "Content_MD5": "25f9e794323b453885f5181f1b624d0b",
}


def test_a_checksum_of_the_server_decides_of_the_bytes_as_they_are_sent_or_of_the_text(faulty: FaultyFiles) -> None:
    for header, checksum in CHECKSUMS.items():
        right: dict[str, Any] = {header: b64(bytes.fromhex(checksum))}
        packed_text = stored(gzip.compress(b"123456789"), Content_Encoding="gzip", **right)
        assert [faulty.fetch(each) for each in (stored(b"123456789", **right), packed_text)] == [b"123456789"] * 2
        with pytest.raises(SourceUnavailable, match=f"announced {header.replace('_', '-')}: .*changed in transit"):
            faulty.fetch(stored(b"123456780", **right))
    body = gzip.compress(b"123456789")
    of_sent = b64(zlib.crc32(body).to_bytes(4, "big"))
    assert faulty.fetch(stored(body, Content_Encoding="gzip", x_amz_checksum_crc32=of_sent)) == b"123456789"


def test_a_late_file_of_a_month_is_waited_for_through_other_faults_and_no_other_file_is(
    database: Database, faulty: FaultyFiles, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The month that has ended last, whose file is waited for until the next has ended.
    month = f"{datetime.now(UTC).replace(day=1) - timedelta(days=1):%Y-%m}"
    path, policy = f"sales/{month}-01/sales.csv", dag_bag().dags[SALES].get_task("stage_sales").retry_policy
    late_for = timedelta(days=36_500)  # also after the data interval of the run of customer files
    monkeypatch.setattr(staging, "LATE_FOR", late_for)
    monkeypatch.setattr(policy, "late_for", late_for)
    faulty.write(path, csv_text.sales(f"1,5,{month}-03,1"))
    faulty.answers[path] = [s3_error(403, "AccessDenied", "Access Denied")]
    with pytest.raises(FileNotYetAvailable):
        stage_file(database, "sales", f"{month}-01")
    [(found, error)] = database.run("select status, error from month_status")
    assert found == "waiting"
    assert "returned 403 Forbidden (AccessDenied: Access Denied)" in error
    assert "Either the file may not be read, or it is missing" in error
    monkeypatch.setattr(retries, "TRANSIENT_TRIES", 3)
    faulty.answers[path] = [*[status(404)] * 3, status(503), hang_up, cut(5)]
    assert run_dag(SALES, month, retries=9) == "success"
    assert database.run("select value from sales") == [(5,)]
    for dag, run_month, other in ((SALES, month, "stores.csv"), (CUSTOMERS, None, "customer_profiles.csv")):
        for answer, tries in ((404, 1), (503, 3)):
            faulty.requests.clear()
            faulty.answers[other] = [status(answer)] * 4
            assert run_dag(dag, run_month, retries=9) == "failed"
            assert faulty.requests.count(f"/{other}") == tries


def test_a_source_that_trickles_is_given_up_at_the_task_s_time_limit_and_recorded(
    database: Database, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dag_bag().dags[SALES].get_task("stage_sales")
    monkeypatch.setattr(task, "execution_timeout", timedelta(hours=1))
    # The hour has passed: Airflow's timer, which sends this signal, is ahead of nothing but the download.
    faulty.answers[FAULTY_PATH] = [trickle(lambda: os.kill(os.getpid(), signal.SIGALRM))]
    assert run_dag(SALES, "2024-02") == "failed"
    [(outcome, error)] = database.run("select status, error from pipeline.loads")
    assert outcome == "failed"
    assert f"{FAULTY_PATH}: the file was not complete when the task's time limit was reached" in error


def decision_on(error: Exception) -> RetryDecision:
    return LoadRetryPolicy(STAGING_RETRIES).evaluate(error, try_number=1, max_tries=STAGING_RETRIES)


FOUND_AGAIN = """
    InvalidTextRepresentation ReadOnlySqlTransaction ProgramLimitExceeded StatementTooComplex TooManyColumns
    TooManyArguments ConfigurationLimitExceeded CantChangeRuntimeParam ActiveSqlTransaction InFailedSqlTransaction
    DependentObjectsStillExist FunctionExecutedNoReturnStatement TriggeredDataChangeViolation IndexCorrupted
"""
MAY_PASS = """
    OperationalError DiskFull OutOfMemory TooManyConnections LockNotAvailable DeadlockDetected QueryCanceled
    IdleInTransactionSessionTimeout AdminShutdown
"""


def test_a_retry_is_for_what_it_may_not_find_again() -> None:
    errors = [getattr(psycopg.errors, name)() for name in FOUND_AGAIN.split()]
    for error in (*errors, OverflowError("x"), ImportError("x"), ValueError("x")):
        assert decision_on(error).action is RetryAction.FAIL, error
    for name in MAY_PASS.split():
        error = getattr(psycopg.errors, name, psycopg.OperationalError)()
        assert decision_on(error).action is RetryAction.RETRY, name


def test_a_workflow_that_is_there_before_its_migration_tries_again(database: Database) -> None:
    with pytest.raises(psycopg.Error, match='has no source "returns" with a file per month') as failure:
        stage_file(database, "returns", "2024-02-01")
    assert decision_on(failure.value).action is RetryAction.RETRY


def test_a_file_of_more_bytes_than_the_setting_is_rejected_and_one_of_as_many_is_loaded(
    faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("0", "1.5", "1_000", "\u0661\u0660", "9" * 19):
        monkeypatch.setenv("SOURCE_MAX_BYTES", value)
        form = f'"{value}", which is not a whole number of bytes above 0. Write it as 10000000000, or'
        with pytest.raises(ValueError, match=f"SOURCE_MAX_BYTES is {form}"):
            faulty.fetch()
    assert faulty.requests == []
    for answer in (chunked, packed(), with_headers()):
        monkeypatch.setenv("SOURCE_MAX_BYTES", str(len(CONTENT)))
        assert faulty.fetch(answer) == CONTENT.encode()
        monkeypatch.setenv("SOURCE_MAX_BYTES", str(len(CONTENT) - 1))
        with pytest.raises(FileRejected, match=f"allows {len(CONTENT) - 1:,}, .* set SOURCE_MAX_BYTES higher"):
            faulty.fetch(answer)
    monkeypatch.delenv("SOURCE_MAX_BYTES")
    with pytest.raises(SourceUnavailable):  # it ends early
        faulty.fetch(without_length(Content_Length=10_000_000_000))
    with pytest.raises(FileRejected, match=r"announces 10,000,000,001 .* SOURCE_MAX_BYTES allows 10,000,000,000"):
        faulty.fetch(without_length(Content_Length=10_000_000_001))


WAITS, MISSES, FAILS, RETRIES = FileNotYetAvailable, FileMissing, FileRejected, SourceUnavailable
ENDPOINT = "<Endpoint>bucket.s3.eu-west-1.amazonaws.com</Endpoint>"
MOVED = r"301 .*\(PermanentRedirect: Use the endpoint\.: endpoint bucket\.s3\.eu-west-1\.amazonaws\.com\)"
FORBIDDEN = "Either the file may not be read, or it is missing"
NO_LENGTH = "neither states the length of the file nor sends it in chunks"


@pytest.mark.parametrize(
    ("answer", "in_its_week", "later", "message"),
    [
        (status(404), WAITS, MISSES, "404 Not Found"),
        (s3_error(404, "NoSuchKey", "The key &amp; more"), WAITS, MISSES, r"404 Not Found \(NoSuchKey: The key & more"),
        (s3_error(404, "NoSuchBucket"), FAILS, FAILS, "Correct the name of the bucket"),
        (s3_error(403, "AccessDenied"), WAITS, MISSES, FORBIDDEN),
        (s3_error(403, "InvalidAccessKeyId"), FAILS, FAILS, "Replace the credentials"),
        (s3_error(400, "ExpiredToken"), FAILS, FAILS, "Replace the credentials"),
        (s3_error(403, "RequestTimeTooSkewed"), FAILS, FAILS, "Correct the clock of this machine"),
        (s3_error(403, "AllAccessDisabled"), FAILS, FAILS, "Have the owner of the bucket enable access"),
        (s3_error(403, "InvalidObjectState"), FAILS, FAILS, "The file is in an archive"),
        (s3_error(301, "PermanentRedirect", "Use the endpoint.", ENDPOINT), FAILS, FAILS, MOVED),
        (s3_error(400, "RequestTimeout"), RETRIES, RETRIES, "RequestTimeout.*tries again by itself"),
        (s3_error(400, "Unheard"), FAILS, FAILS, "400 Bad Request .Unheard"),
        *((status(number), FAILS, FAILS, str(number)) for number in (202, 206, 304, 401, 501, 511)),
        *((status(number), RETRIES, RETRIES, str(number)) for number in (425, 500, 507, 520)),
        (status(503, Content_Length=1_000), RETRIES, RETRIES, "503 Service Unavailable"),  # its body is cut off
        (hang_up, RETRIES, RETRIES, "no answer .*tries again by itself"),
        (reset(0), RETRIES, RETRIES, "the download stopped after 0 bytes"),
        # Its end could be a lost connection.
        (without_length(Content_Length="-5"), FAILS, FAILS, NO_LENGTH),
        (without_length(Content_Encoding="gzip"), FAILS, FAILS, NO_LENGTH),
        (without_length(Transfer_Encoding="gzip, chunked"), FAILS, FAILS, NO_LENGTH),
    ],
)
def test_status_and_code_decide_between_waiting_failing_and_retrying(
    answer: Answer, in_its_week: type[Exception], later: type[Exception], message: str, faulty: FaultyFiles
) -> None:
    now = datetime.now(UTC)
    for late_until, error in ((now + timedelta(days=1), in_its_week), (now - timedelta(days=1), later)):
        with pytest.raises((SourceUnavailable, FileRejected), match=message) as failure:
            faulty.fetch(answer, late_until=late_until)
        assert failure.type is error


def test_the_body_of_an_error_is_read_with_care(faulty: FaultyFiles) -> None:
    entities = (
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Error><Code>&b;</Code><Message>\t\u200b</Message>'
    )
    for body, shown in (
        (f"{entities}</Error>".encode(), r"\(&b;: \\u200b\)"),
        (b"<Error><Code>X</Code>" + b"x" * 10_000_000, r"\(X\)"),
        (b"<Error><Code>" + b"x" * 10_000 + b"</Code></Error>", r"\(x{300}…\)"),
        (b"<html><Code>X</Code></html>", r"400 Bad Request\. "),
    ):
        with pytest.raises(FileRejected, match=shown):
            faulty.fetch(stored(body, 400))


@pytest.mark.parametrize("number", [429, 503])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(number: int, faulty: FaultyFiles) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    unreadable = ((value, 30, 30) for value in ("soon", "-5", "1e9", "²", "\x1b", "Fri, 31 Dec 9999 23:59:59 -0100"))
    for value, least, most in (("1800", 1800, 1800), (soon, 3500, 3600), ("9" * 30, 21600, 21600), *unreadable):
        with pytest.raises(SourceUnavailable) as failure:
            faulty.fetch(status(number, Retry_After=value))
        pause = decision_on(failure.value).retry_delay
        assert pause is not None
        assert least <= pause.total_seconds() <= most, value


def test_pauses_grow_and_a_late_file_is_requested_for_over_a_week() -> None:
    def pauses(error: Exception) -> list[timedelta]:
        # As if the task had been cleared after 7 earlier tries.
        policy, tries = LoadRetryPolicy(STAGING_RETRIES), range(8, STAGING_RETRIES + 8)
        found = [policy.evaluate(error, each, STAGING_RETRIES + 7).retry_delay for each in tries]
        return [pause for pause in found if pause is not None]

    late, transient = pauses(FileNotYetAvailable("late", datetime.now(UTC))), pauses(SourceUnavailable("gone"))
    assert (late, transient) == (sorted(late), sorted(transient))
    assert (late[0], transient[0]) == (timedelta(minutes=15), timedelta(seconds=30))
    assert sum(late, timedelta()) > timedelta(days=7)
    assert timedelta(minutes=30) < sum(transient, timedelta()) < timedelta(hours=3)
