"""A source that misbehaves: what is retried, what fails at once, and that no month is ever short."""

import base64
import gzip
import socket
import threading
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import psycopg
import pytest
from airflow.sdk import RetryAction
from conftest import CONTENT, FAULTY_MONTH, FAULTY_PATH, Database, FaultyFiles, RunDag, month_after
from support.breakpoints import wait_until_nothing_is_left
from support.faulty_bucket import (
    Answer,
    MisbehavingHandler,
    broken_chunks,
    chunked,
    cut,
    endless,
    hang_up,
    packed,
    page,
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
from support.steps import load_month, stage_file

from company_data import source
from company_data.errors import FileNotYetAvailable, FileRejected, SourceUnavailable
from company_data.retries import STAGING_RETRIES, LoadRetryPolicy

pytestmark = pytest.mark.slow

TOTAL = sum(range(1, 29)) + 28 * 0.25


def total(database: Database) -> object:
    return database.run("select sum(value)::float from monthly_sales")[0][0]


@pytest.mark.parametrize(
    "faults",
    [
        [status(500), status(503, Retry_After=0), status(429, Retry_After=0)],
        [hang_up, reset(0), reset(300)],
        [cut(0), cut(len(CONTENT) - 1), broken_chunks(300)],
        [packed(cut_at=100), s3_error(400, "RequestTimeout"), with_headers(x_amz_checksum_crc32="AAAAAA==")],
    ],
)
def test_transient_faults_are_retried_by_airflow_until_the_month_is_complete(
    faults: list[Answer], database: Database, faulty: FaultyFiles, run_dag: RunDag, no_pauses: None
) -> None:
    faulty.answers[FAULTY_PATH] = list(faults)
    assert run_dag("sales_load_and_aggregation", month_after("2024-02"), retries=3) == "success"
    assert total(database) == TOTAL
    assert database.run("select status from pipeline.loads where source_url like '%/sales.csv' order by load_id") == [
        *[("failed",)] * 3,
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
        (redirect("https://[bad"), "it is no valid address, or redirects to one that is not"),
        (
            with_headers(Content_Encoding="gzip"),
            r"gzip, but the file is not gzip: it begins with 'idx,value,date,store_",
        ),
        (s3_error(404, "NoSuchBucket"), "Correct the name of the bucket in SOURCE_BASE_URL. Then clear this run."),
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
    load_month(database, FAULTY_MONTH)
    faulty.requests.clear()
    faulty.answers[FAULTY_PATH] = [fault]
    assert run_dag("sales_load_and_aggregation", month_after("2024-02"), retries=3) == "failed"
    assert faulty.requests.count(f"/{FAULTY_PATH}") == 1
    log = capsys.readouterr().out
    assert reason in log
    assert FAULTY_PATH in log
    assert "hidden" not in log
    assert total(database) == TOTAL
    [(outcome, error)] = database.run(
        "select status, error from pipeline.loads where source_url like '%/sales.csv' order by load_id desc limit 1"
    )
    assert outcome == "rejected"
    assert reason in error


def test_a_refused_connection_is_retried(faulty: FaultyFiles) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{unused.getsockname()[1]}/{FAULTY_PATH}"
        with pytest.raises(SourceUnavailable, match=r"no answer .*Connection refused"), source.open_file(address):
            pass


def test_a_stall_longer_than_the_read_timeout_is_retried(faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "READ_TIMEOUT", 0.3)
    released = threading.Event()
    for at in (0, 10, 300):
        faulty.answers[FAULTY_PATH] = [stall(at, released)]
        with pytest.raises(SourceUnavailable, match=r"timed out"):
            faulty.fetch()
    released.set()


def test_a_body_that_is_cut_at_any_byte_is_never_taken_for_a_complete_one(faulty: FaultyFiles) -> None:
    content = "idx,value,date,store_idx\n1,1.25,2024-02-01,1\n2,2.25,2024-02-02,1\n"
    faulty.write(FAULTY_PATH, content)
    for at in range(len(content)):
        for fault in (cut(at), broken_chunks(at)):
            faulty.answers[FAULTY_PATH] = [fault]
            with pytest.raises(SourceUnavailable):
                faulty.fetch()


def test_a_gzipped_body_that_is_cut_at_any_byte_is_never_taken_for_a_complete_one(faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [packed()]
    assert faulty.fetch() == CONTENT.encode()
    # Zero bytes of gzip unpack to nothing, which is a file without a header.
    for at in range(1, 200):
        faulty.answers[FAULTY_PATH] = [packed(cut_at=at)]
        with pytest.raises(SourceUnavailable):
            faulty.fetch()


@pytest.mark.parametrize("good", [packed(), chunked, with_headers(ETag='W/"1"')])
def test_gzip_and_chunks_load_as_the_plain_file_does(good: Answer, database: Database, faulty: FaultyFiles) -> None:
    load_month(database, FAULTY_MONTH)
    faulty.answers[FAULTY_PATH] = [good]
    load_month(database, FAULTY_MONTH)
    assert total(database) == TOTAL
    assert database.run(
        "select count(distinct sha256), min(bytes) from pipeline.loads where source_url like '%/sales.csv'"
    ) == [(1, len(CONTENT))]


def test_the_authority_of_the_source_is_independent_of_the_authorities_of_other_requests(
    faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    assert faulty.fetch() == CONTENT.encode()


@pytest.mark.parametrize("header", ["identity", "none", "aws-chunked", "AWS-Chunked, identity", "utf-8", ""])
def test_a_coding_that_changes_no_byte_is_ignored(header: str, faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [with_headers(Content_Encoding=header)]
    assert faulty.fetch() == CONTENT.encode()


@pytest.mark.parametrize("header", ["gzip", "X-GZIP", "aws-chunked,gzip", "gzip, none"])
def test_gzip_is_unpacked_whatever_stands_beside_it(header: str, faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [stored(gzip.compress(CONTENT.encode()), Content_Encoding=header)]
    assert faulty.fetch() == CONTENT.encode()


@pytest.mark.parametrize("header", ["br", "zstd", "deflate", "compress", "gzip, gzip", "aws-chunked, br"])
def test_a_coding_that_is_not_unpacked_is_named(header: str, faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [with_headers(Content_Encoding=header)]
    with pytest.raises(FileRejected, match=f'Content-Encoding "{header}", and only gzip is supported'):
        faulty.fetch()


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
    faulty.answers[FAULTY_PATH] = [stored(body, Content_Encoding="gzip")]
    with pytest.raises(FileRejected, match=message):
        faulty.fetch()


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
    right = bytes.fromhex(CHECKSUMS[header])
    faulty.answers[FAULTY_PATH] = [
        stored(b"123456789", **{header: b64(right)}),
        stored(b"123456780", **{header: b64(right)}),
    ]
    assert faulty.fetch() == b"123456789"
    with pytest.raises(SourceUnavailable, match=f"announced {header.replace('_', '-')}: .*changed in transit"):
        faulty.fetch()


def test_a_checksum_is_that_of_the_bytes_as_they_are_sent(faulty: FaultyFiles) -> None:
    body = gzip.compress(CONTENT.encode())
    checksum = b64(zlib.crc32(body).to_bytes(4, "big"))
    faulty.answers[FAULTY_PATH] = [stored(body, Content_Encoding="gzip", x_amz_checksum_crc32=checksum)]
    assert faulty.fetch() == CONTENT.encode()


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": f'"{"0" * 32}"'},
        {"ETag": f'"{"0" * 32}-2"'},
        {"ETag": "0", "x_amz_server_side_encryption": "aws:kms"},
        {"x_amz_checksum_crc32": "AAAAAA==-3"},
        {"x_amz_checksum_sha256": "3q2+7w=="},
        {"x_amz_checksum_crc32c": "AAAAAA=="},
        {"x_amz_checksum_crc64nvme": "AAAAAAAAAAA="},
        {"Content_MD5": "0" * 32},
        {"Content_MD5": "not base64"},
    ],
)
def test_what_is_no_checksum_of_the_file_decides_nothing(headers: dict[str, object], faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [with_headers(**headers)]
    assert faulty.fetch() == CONTENT.encode()


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


def test_a_month_whose_missing_file_is_forbidden_is_waited_for_within_its_week(
    database: Database, faulty: FaultyFiles, run_dag: RunDag
) -> None:
    this_month = f"{datetime.now(UTC):%Y-%m}"
    path = f"sales/{this_month}-01/sales.csv"
    faulty.write(path, f"idx,value,date,store_idx\n1,5,{this_month}-03,1\n")
    faulty.answers[path] = [s3_error(403, "AccessDenied", "Access Denied")]
    assert run_dag("sales_load_and_aggregation", month_after(this_month)) == "failed"
    [(month, error)] = database.run("select status, error from month_status")
    assert month == "waiting"
    assert "answers 403 Forbidden (AccessDenied: Access Denied)" in error
    assert "Either the file may not be read, or it is missing" in error
    assert run_dag("sales_load_and_aggregation", month_after(this_month)) == "success"


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
    faulty.answers[FAULTY_PATH] = [trickle]
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "failed"
    [(outcome, error)] = database.run("select status, error from pipeline.loads")
    assert outcome == "failed"
    assert f"{FAULTY_PATH}: the file was not complete when the task's time limit was reached" in error


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.InvalidTextRepresentation(),
        psycopg.errors.ReadOnlySqlTransaction(),
        psycopg.errors.ProgramLimitExceeded(),
        psycopg.errors.StatementTooComplex(),
        psycopg.errors.TooManyColumns(),
        psycopg.errors.TooManyArguments(),
        psycopg.errors.ConfigurationLimitExceeded(),
        psycopg.errors.CantChangeRuntimeParam(),
        psycopg.errors.ActiveSqlTransaction(),
        psycopg.errors.InFailedSqlTransaction(),
        psycopg.errors.DependentObjectsStillExist(),
        psycopg.errors.FunctionExecutedNoReturnStatement(),
        psycopg.errors.TriggeredDataChangeViolation(),
        psycopg.errors.IndexCorrupted(),
        OverflowError("x"),
        ImportError("x"),
        ValueError("x"),
    ],
)
def test_what_a_retry_would_find_again_fails_at_once(error: Exception) -> None:
    decision = LoadRetryPolicy(STAGING_RETRIES).evaluate(error, try_number=1, max_tries=STAGING_RETRIES)
    assert decision.action is RetryAction.FAIL


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError(),
        psycopg.errors.DiskFull(),
        psycopg.errors.OutOfMemory(),
        psycopg.errors.TooManyConnections(),
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.DeadlockDetected(),
        psycopg.errors.QueryCanceled(),
        psycopg.errors.IdleInTransactionSessionTimeout(),
        psycopg.errors.AdminShutdown(),
    ],
)
def test_what_a_retry_may_not_find_again_is_tried_again(error: Exception) -> None:
    decision = LoadRetryPolicy(STAGING_RETRIES).evaluate(error, try_number=1, max_tries=STAGING_RETRIES)
    assert decision.action is RetryAction.RETRY


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "10GB", "1_000", "\u0661\u0660", " 5", "9" * 19])
def test_a_size_that_is_no_number_of_bytes_fails_at_once_with_its_form(
    value: str, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_MAX_BYTES", value)
    message = (
        f'SOURCE_MAX_BYTES is "{value}", which is not a whole number of bytes above 0. Write it as 10000000000, or'
    )
    with pytest.raises(ValueError, match=message):
        faulty.fetch()
    assert faulty.requests == []


@pytest.mark.parametrize("answer", [chunked, packed(), with_headers()])
def test_a_file_of_more_bytes_than_the_setting_is_rejected_and_one_of_as_many_is_loaded(
    answer: Answer, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.answers[FAULTY_PATH] = [answer, answer]
    monkeypatch.setenv("SOURCE_MAX_BYTES", str(len(CONTENT)))
    assert faulty.fetch() == CONTENT.encode()
    monkeypatch.setenv("SOURCE_MAX_BYTES", str(len(CONTENT) - 1))
    limit = f"{len(CONTENT) - 1:,}"
    with pytest.raises(FileRejected, match=f"SOURCE_MAX_BYTES allows {limit}, .* set SOURCE_MAX_BYTES higher"):
        faulty.fetch()


def test_ten_gigabytes_are_allowed_by_default(faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [without_length(Content_Length=size) for size in (10_000_000_000, 10_000_000_001)]
    with pytest.raises(SourceUnavailable):  # it ends early
        faulty.fetch()
    with pytest.raises(
        FileRejected, match="announces 10,000,000,001 bytes, and SOURCE_MAX_BYTES allows 10,000,000,000"
    ):
        faulty.fetch()


WAITS, FAILS, RETRIES = FileNotYetAvailable, FileRejected, SourceUnavailable
ENDPOINT = "<Endpoint>bucket.s3.eu-west-1.amazonaws.com</Endpoint>"


@pytest.mark.parametrize(
    ("answer", "in_its_week", "later", "message"),
    [
        (status(404), WAITS, FAILS, "404 Not Found"),
        (
            s3_error(404, "NoSuchKey", "The key &amp; more"),
            WAITS,
            FAILS,
            r"404 Not Found \(NoSuchKey: The key & more",
        ),
        (s3_error(404, "NoSuchBucket"), FAILS, FAILS, "Correct the name of the bucket"),
        (status(403), WAITS, FAILS, "Either the file may not be read, or it is missing"),
        (s3_error(403, "AccessDenied"), WAITS, FAILS, "Either the file may not be read, or it is missing"),
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
    ],
)
def test_status_and_code_decide_between_waiting_failing_and_retrying(
    answer: Answer,
    in_its_week: type[Exception],
    later: type[Exception],
    message: str,
    faulty: FaultyFiles,
) -> None:
    now = datetime.now(UTC)
    for late_until, error in ((now + timedelta(minutes=1), in_its_week), (now - timedelta(minutes=1), later)):
        faulty.answers[FAULTY_PATH] = [answer]
        with pytest.raises((SourceUnavailable, FileRejected), match=message) as failure:
            faulty.fetch(late_until)
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
    def answer(handler: MisbehavingHandler) -> None:
        handler.send_head_of(400, {"Content_Length": len(body)})
        with suppress(OSError):
            handler.wfile.write(body)

    faulty.answers[FAULTY_PATH] = [answer]
    with pytest.raises(FileRejected, match=shown):
        faulty.fetch()


def test_an_error_whose_body_is_cut_off_is_still_that_error(faulty: FaultyFiles) -> None:
    faulty.answers[FAULTY_PATH] = [status(503, Content_Length=1_000)]
    with pytest.raises(SourceUnavailable, match="503 Service Unavailable"):
        faulty.fetch()


@pytest.mark.parametrize("number", [429, 503])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(number: int, faulty: FaultyFiles) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for value, least, most in (("1800", 1800, 1800), (soon, 3590, 3600), ("9" * 30, 21600, 21600), ("soon", 30, 30)):
        faulty.answers[FAULTY_PATH] = [status(number, Retry_After=value)]
        with pytest.raises(SourceUnavailable) as failure:
            faulty.fetch()
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


def test_a_failed_download_leaves_no_transaction_behind(database: Database, faulty: FaultyFiles) -> None:
    load_month(database, FAULTY_MONTH)
    faulty.answers[FAULTY_PATH] = [cut(200)]
    with pytest.raises(SourceUnavailable):
        stage_file(database, FAULTY_PATH, "sales", FAULTY_MONTH)
    wait_until_nothing_is_left(database)
    assert database.run("select status from pipeline.loads order by load_id desc limit 1") == [("failed",)]
    assert database.run("select to_regclass(staged_table) from pipeline.loads order by load_id desc limit 1") == [
        (None,)
    ]
