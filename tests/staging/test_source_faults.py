"""A source that misbehaves: what is retried, what fails at once, and that no month is ever short."""

import base64
import gzip
import re
import socket
import threading
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import psycopg
import pytest
from airflow.sdk import RetryAction
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
from support.steps import SALES, load_month, stage_file

from company_data import source, staging
from company_data.errors import FileMissing, FileNotYetAvailable, FileRejected, SourceUnavailable
from company_data.retries import STAGING_RETRIES, LoadRetryPolicy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]

TOTAL = sum(range(1, 29)) + 28 * 0.25


def total(database: Database) -> object:
    return database.run("select sum(value)::float from monthly_sales")[0][0]


@pytest.fixture
def late(faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The month that has ended last, whose file is waited for until the next has ended, and its path."""
    month = f"{datetime.now(UTC).replace(day=1) - timedelta(days=1):%Y-%m}"
    waits = timedelta(days=40)
    monkeypatch.setattr(staging, "LATE_FOR", waits)
    task: Any = staging.stage_csv
    monkeypatch.setattr(task.kwargs["retry_policy"], "late_for", waits)
    path = f"sales/{month}-01/sales.csv"
    faulty.write(path, csv_text.sales(f"1,5,{month}-03,1"))
    return month, path


def test_transient_faults_are_retried_by_airflow_until_the_month_is_complete(
    database: Database, faulty: FaultyFiles, no_pauses: None
) -> None:
    faulty.answers[FAULTY_PATH] = [status(503, Retry_After=0), reset(300), cut(len(CONTENT) - 1)]
    assert run_dag(SALES, "2024-02", retries=3) == "success"
    assert total(database) == TOTAL
    statuses = database.run("select status from pipeline.loads where source_url like '%/sales.csv' order by load_id")
    assert statuses == [*[("failed",)] * 3, ("published",)]


def test_a_permanent_fault_fails_at_once_with_the_address_and_the_reason(
    database: Database, faulty: FaultyFiles, no_pauses: None, capsys: pytest.CaptureFixture[str]
) -> None:
    load_month(database, FAULTY_MONTH)
    faulty.requests.clear()
    faulty.answers[FAULTY_PATH] = [redirect("http://127.0.0.1:1/x?X-Amz-Signature=hidden")]
    assert run_dag(SALES, "2024-02", retries=3) == "failed"
    assert faulty.requests.count(f"/{FAULTY_PATH}") == 1
    log = capsys.readouterr().out
    assert f"{FAULTY_PATH}: the server redirects to what is not https" in log
    assert "hidden" not in log
    assert total(database) == TOTAL
    [(outcome, error)] = database.run("select status, error from pipeline.loads where error is not null")
    assert outcome == "rejected"
    assert "redirects to what is not https" in error


@pytest.mark.parametrize("fault", [status(500), hang_up, reset(0), with_headers(x_amz_checksum_crc32="AAAAAA==")])
def test_a_fault_of_the_network_or_the_server_is_tried_again(fault: Answer, faulty: FaultyFiles) -> None:
    with pytest.raises(SourceUnavailable):
        faulty.fetch(fault)


@pytest.mark.parametrize(
    "fault",
    [
        without_length(Content_Length="abc"),
        without_length(Content_Length="-5"),
        without_length(Content_Encoding="gzip"),
        without_length(Transfer_Encoding="gzip, chunked"),
    ],
)
def test_a_file_whose_end_could_be_a_lost_connection_is_rejected(fault: Answer, faulty: FaultyFiles) -> None:
    with pytest.raises(FileRejected, match="neither states the length of the file nor sends it in chunks"):
        faulty.fetch(fault)


def test_a_refused_connection_is_retried(faulty: FaultyFiles) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{unused.getsockname()[1]}/{FAULTY_PATH}"
        with pytest.raises(SourceUnavailable, match=r"no answer .*Connection refused"), source.open_file(address):
            pass


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


@pytest.mark.parametrize("good", [packed(), chunked, with_headers(ETag='W/"1"')])
def test_gzip_and_chunks_load_as_the_plain_file_does(good: Answer, database: Database, faulty: FaultyFiles) -> None:
    for answers in ([], [good]):
        faulty.answers[FAULTY_PATH] = list(answers)
        stage_file(database, "sales", FAULTY_MONTH)
    [loads] = database.run("select count(distinct sha256), min(bytes), max(bytes), min(row_count) from pipeline.loads")
    assert loads == (1, len(CONTENT), len(CONTENT), 28)


def test_a_coding_is_ignored_undone_or_named(faulty: FaultyFiles) -> None:
    for header in ("identity", "none", "aws-chunked", "AWS-Chunked, identity", "utf-8", ""):
        assert faulty.fetch(with_headers(Content_Encoding=header)) == CONTENT.encode()
    for header in ("gzip", "X-GZIP", "aws-chunked,gzip", "gzip, none"):
        assert faulty.fetch(stored(gzip.compress(CONTENT.encode()), Content_Encoding=header)) == CONTENT.encode()
    for header in ("br", "zstd", "deflate", "compress", "gzip, gzip", "aws-chunked, br"):
        with pytest.raises(FileRejected, match=f'Content-Encoding "{header}", and only gzip is supported'):
            faulty.fetch(with_headers(Content_Encoding=header))


def damaged(at: int) -> bytes:
    """The file as gzip, with one byte changed."""
    data = bytearray(gzip.compress(CONTENT.encode(), mtime=0))
    data[at] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (CONTENT.encode(), "it begins with 'idx,value,date,store_"),
        (b"\xff\xfei\0d\0x\0", r"it begins with '\\xff\\xfei\\x00d"),
        (b"PK\3\4", r"it begins with 'PK\\x03\\x04'"),
        (damaged(2), "the gzip data is damaged .Unknown compression method"),
        (damaged(40), "the gzip data is damaged .Error -3 while decompressing"),
        (damaged(-6), "the gzip data is damaged .CRC check failed"),
        (damaged(-1), "the gzip data is damaged .Incorrect length"),
        (gzip.compress(CONTENT.encode()) + b"more", "the gzip data is damaged .Not a gzipped file"),
    ],
)
def test_what_is_labelled_gzip_and_cannot_be_unpacked_fails_at_once(
    body: bytes, message: str, faulty: FaultyFiles
) -> None:
    with pytest.raises(FileRejected, match=message):
        faulty.fetch(stored(body, Content_Encoding="gzip"))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


CHECKSUMS = {
    # Of "123456789": the check values in the catalogue of CRC algorithms and in RFC 1321, RFC 3174, FIPS 180.
    "x_amz_checksum_crc32": "cbf43926",
    "x_amz_checksum_sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "x_amz_checksum_sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    "Content_MD5": "25f9e794323b453885f5181f1b624d0b",
}


@pytest.mark.parametrize("header", CHECKSUMS)
def test_a_checksum_of_the_server_decides(header: str, faulty: FaultyFiles) -> None:
    right: dict[str, Any] = {header: b64(bytes.fromhex(CHECKSUMS[header]))}
    assert faulty.fetch(stored(b"123456789", **right)) == b"123456789"
    with pytest.raises(SourceUnavailable, match=f"announced {header.replace('_', '-')}: .*changed in transit"):
        faulty.fetch(stored(b"123456780", **right))


def test_a_checksum_is_that_of_the_bytes_as_they_are_sent_or_of_the_text(faulty: FaultyFiles) -> None:
    body = gzip.compress(CONTENT.encode())
    for described in (body, CONTENT.encode()):
        checksum = b64(zlib.crc32(described).to_bytes(4, "big"))
        assert faulty.fetch(stored(body, Content_Encoding="gzip", x_amz_checksum_crc32=checksum)) == CONTENT.encode()
    with pytest.raises(SourceUnavailable, match="changed in transit"):
        faulty.fetch(stored(body, Content_Encoding="gzip", x_amz_checksum_crc32="AAAAAA=="))


def test_a_late_file_is_waited_for_through_other_faults_and_a_missing_list_of_stores_is_not(
    late: tuple[str, str], database: Database, faulty: FaultyFiles, no_pauses: None
) -> None:
    month, path = late
    # More tries than a transient fault gets.
    faulty.answers[path] = [*[status(404)] * 9, status(503), hang_up, cut(5)]
    assert run_dag(SALES, month, retries=15) == "success"
    assert database.run("select value from sales") == [(5,)]
    faulty.answers["stores.csv"] = [status(404)]
    assert run_dag(SALES, month, retries=15) == "failed"


def test_a_month_whose_missing_file_is_forbidden_is_waited_for_within_its_week(
    late: tuple[str, str], database: Database, faulty: FaultyFiles
) -> None:
    month, path = late
    faulty.answers[path] = [s3_error(403, "AccessDenied", "Access Denied")]
    with pytest.raises(FileNotYetAvailable):
        stage_file(database, "sales", f"{month}-01")
    [(found, error)] = database.run("select status, error from month_status")
    assert found == "waiting"
    assert "returned 403 Forbidden (AccessDenied: Access Denied)" in error
    assert "Either the file may not be read, or it is missing" in error


def test_a_source_that_trickles_is_given_up_at_the_task_s_time_limit_and_recorded(
    database: Database, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dag_bag().dags[SALES].get_task("stage_sales")
    monkeypatch.setattr(task, "execution_timeout", timedelta(seconds=1))
    faulty.answers[FAULTY_PATH] = [trickle]
    assert run_dag(SALES, "2024-02") == "failed"
    [(outcome, error)] = database.run("select status, error from pipeline.loads")
    assert outcome == "failed"
    assert f"{FAULTY_PATH}: the file was not complete when the task's time limit was reached" in error


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
    def action(error: Exception) -> RetryAction:
        return LoadRetryPolicy(STAGING_RETRIES).evaluate(error, try_number=1, max_tries=STAGING_RETRIES).action

    errors = [getattr(psycopg.errors, name)() for name in FOUND_AGAIN.split()]
    for error in (*errors, OverflowError("x"), ImportError("x"), ValueError("x")):
        assert action(error) is RetryAction.FAIL, error
    for name in MAY_PASS.split():
        assert action(getattr(psycopg.errors, name, psycopg.OperationalError)()) is RetryAction.RETRY, name


def test_a_workflow_that_is_there_before_its_migration_tries_again(database: Database) -> None:
    with pytest.raises(psycopg.Error, match='has no source "returns" with a file per month') as failure:
        stage_file(database, "returns", "2024-02-01")
    decision = LoadRetryPolicy(STAGING_RETRIES).evaluate(failure.value, try_number=1, max_tries=STAGING_RETRIES)
    assert decision.action is RetryAction.RETRY


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "10GB", "1_000", "\u0661\u0660", " 5", "9" * 19])
def test_a_size_that_is_no_number_of_bytes_fails_at_once_with_its_form(
    value: str, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_MAX_BYTES", value)
    message = f'"{value}", which is not a whole number of bytes above 0. Write it as 10000000000, or'
    with pytest.raises(ValueError, match=f"SOURCE_MAX_BYTES is {message}"):
        faulty.fetch()
    assert faulty.requests == []


@pytest.mark.parametrize("answer", [chunked, packed(), with_headers()])
def test_a_file_of_more_bytes_than_the_setting_is_rejected_and_one_of_as_many_is_loaded(
    answer: Answer, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_MAX_BYTES", str(len(CONTENT)))
    assert faulty.fetch(answer) == CONTENT.encode()
    monkeypatch.setenv("SOURCE_MAX_BYTES", str(len(CONTENT) - 1))
    limit = f"{len(CONTENT) - 1:,}"
    with pytest.raises(FileRejected, match=f"SOURCE_MAX_BYTES allows {limit}, .* set SOURCE_MAX_BYTES higher"):
        faulty.fetch(answer)


def test_ten_gigabytes_are_allowed_by_default(faulty: FaultyFiles) -> None:
    with pytest.raises(SourceUnavailable):  # it ends early
        faulty.fetch(without_length(Content_Length=10_000_000_000))
    with pytest.raises(FileRejected, match=r"announces 10,000,000,001 .* SOURCE_MAX_BYTES allows 10,000,000,000"):
        faulty.fetch(without_length(Content_Length=10_000_000_001))


WAITS, MISSES, FAILS, RETRIES = FileNotYetAvailable, FileMissing, FileRejected, SourceUnavailable
ENDPOINT = "<Endpoint>bucket.s3.eu-west-1.amazonaws.com</Endpoint>"


@pytest.mark.parametrize(
    ("answer", "in_its_week", "later", "message"),
    [
        (status(404), WAITS, MISSES, "404 Not Found"),
        (s3_error(404, "NoSuchKey", "The key &amp; more"), WAITS, MISSES, r"404 Not Found \(NoSuchKey: The key & more"),
        (s3_error(404, "NoSuchBucket"), FAILS, FAILS, "Correct the name of the bucket"),
        (status(403), WAITS, MISSES, "Either the file may not be read, or it is missing"),
        (s3_error(403, "AccessDenied"), WAITS, MISSES, "Either the file may not be read, or it is missing"),
        (s3_error(403, "InvalidAccessKeyId"), FAILS, FAILS, "Replace the credentials"),
        (s3_error(403, "SignatureDoesNotMatch"), FAILS, FAILS, "Replace the credentials"),
        (s3_error(400, "ExpiredToken"), FAILS, FAILS, "Replace the credentials"),
        (s3_error(403, "RequestTimeTooSkewed"), FAILS, FAILS, "Correct the clock of this machine"),
        (s3_error(403, "AllAccessDisabled"), FAILS, FAILS, "Have the owner of the bucket enable access"),
        (s3_error(403, "InvalidObjectState"), FAILS, FAILS, "The file is in an archive"),
        (
            s3_error(301, "PermanentRedirect", "Use the endpoint.", ENDPOINT),
            FAILS,
            FAILS,
            r"301 .*\(PermanentRedirect: Use the endpoint\.: endpoint bucket\.s3\.eu-west-1\.amazonaws\.com\)",
        ),
        (s3_error(503, "SlowDown"), RETRIES, RETRIES, "SlowDown.*tries again by itself"),
        (s3_error(400, "RequestTimeout"), RETRIES, RETRIES, "RequestTimeout.*tries again by itself"),
        (s3_error(409, "OperationAborted"), RETRIES, RETRIES, "OperationAborted.*tries again by itself"),
        (s3_error(400, "Unheard"), FAILS, FAILS, "400 Bad Request .Unheard"),
        (status(401), FAILS, FAILS, "401 Unauthorized"),
        (status(501), FAILS, FAILS, "501 Not Implemented"),
        *((status(number), FAILS, FAILS, str(number)) for number in (202, 204, 205, 206, 300, 304, 418, 511)),
        *((status(number), RETRIES, RETRIES, str(number)) for number in (425, 500, 504, 507, 520, 526, 599)),
        (status(503, Content_Length=1_000), RETRIES, RETRIES, "503 Service Unavailable"),  # its body is cut off
    ],
)
def test_status_and_code_decide_between_waiting_failing_and_retrying(
    answer: Answer, in_its_week: type[Exception], later: type[Exception], message: str, faulty: FaultyFiles
) -> None:
    now = datetime.now(UTC)
    for late_until, error in ((now + timedelta(minutes=1), in_its_week), (now - timedelta(minutes=1), later)):
        with pytest.raises((SourceUnavailable, FileRejected), match=message) as failure:
            faulty.fetch(answer, late_until=late_until)
        assert failure.type is error


ENTITIES = (
    '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Error><Code>&b;</Code><Message>\t\u200b</Message></Error>'
)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (ENTITIES.encode(), r"\(&b;: \\u200b\)"),
        (b"<Error><Code>X</Code>" + b"x" * 10_000_000, r"\(X\)"),
        (b"<Error><Code>" + b"x" * 10_000 + b"</Code></Error>", r"\(x{300}…\)"),
        (b"<Error><Code>\xff\x00</Code></Error>", r"\(\\ufffd\\x00\)|\(\ufffd\\x00\)"),
        (b"<html><Code>X</Code></html>", r"400 Bad Request\. "),
        (b"", r"400 Bad Request\. "),
    ],
)
def test_the_body_of_an_error_is_read_with_care(body: bytes, shown: str, faulty: FaultyFiles) -> None:
    with pytest.raises(FileRejected, match=shown):
        faulty.fetch(stored(body, 400))


@pytest.mark.parametrize("number", [429, 503])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(number: int, faulty: FaultyFiles) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for value, least, most in (("1800", 1800, 1800), (soon, 3500, 3600), ("9" * 30, 21600, 21600), ("soon", 30, 30)):
        with pytest.raises(SourceUnavailable) as failure:
            faulty.fetch(status(number, Retry_After=value))
        decision = LoadRetryPolicy(STAGING_RETRIES).evaluate(failure.value, try_number=1, max_tries=STAGING_RETRIES)
        assert decision.retry_delay is not None
        assert least <= decision.retry_delay.total_seconds() <= most


def test_pauses_grow_and_a_late_file_is_requested_for_over_a_week() -> None:
    def pauses(error: Exception) -> list[timedelta]:
        # As if the task had been cleared after 7 earlier tries.
        policy, tries = LoadRetryPolicy(STAGING_RETRIES), range(8, STAGING_RETRIES + 8)
        found = [policy.evaluate(error, each, STAGING_RETRIES + 7).retry_delay for each in tries]
        return [pause for pause in found if pause is not None]

    late, transient = pauses(FileNotYetAvailable("late", datetime.now(UTC))), pauses(SourceUnavailable("gone"))
    assert late == sorted(late)
    assert late[0] == timedelta(minutes=15)
    assert sum(late, timedelta()) > timedelta(days=7)
    assert transient == sorted(transient)
    assert transient[0] == timedelta(seconds=30)
    assert timedelta(minutes=30) < sum(transient, timedelta()) < timedelta(hours=3)


def test_a_failed_download_leaves_no_transaction_behind(database: Database, faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [cut(200)]
    with pytest.raises(SourceUnavailable, match=re.escape(FAULTY_PATH)):
        stage_file(database, "sales", FAULTY_MONTH)
    wait_until_nothing_is_left(database)
    assert database.run("select status, to_regclass(staged_table) from pipeline.loads") == [("failed", None)]
