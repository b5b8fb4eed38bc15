"""Headers that only inform: shown escaped and cut, and ignored where they cannot be read."""

import logging
import re
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product

import psycopg
import pytest
from conftest import CONTENT, FAULTY_MONTH, FAULTY_PATH, Database, FaultyFiles
from support.faulty_bucket import Answer, raw, redirect, status, with_headers
from support.steps import stage_file

from company_data import settings, source
from company_data.errors import FileRejected, SourceUnavailable

pytestmark = pytest.mark.slow

ESCAPES = "a\x1b[31mb\x00c\x9bd\x7f"
SHOWN = r"a\x1b[31mb\x00c\x9bd\x7f"


INVALID = (f"https://{ESCAPES}/", f"https://{'x' * 64}/", "https://127.0.0.1:99999999999/", "é", "//[::1")


def head(text: str) -> Answer:
    """The file under a head of this text, whose lines are separated by line ends."""
    return raw(text, [CONTENT.encode()])


def has_control_characters(text: str) -> bool:
    return re.search(r"[\x00-\x1f\x7f-\x9f]", text) is not None


def stage_month(database: Database) -> int:
    return stage_file(database, "sales", FAULTY_MONTH)


def test_an_etag_is_kept_and_logged_as_it_can_be_shown(
    database: Database, faulty: FaultyFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    etags = {
        f'"{ESCAPES}"': SHOWN,
        'W/"Ünïcode\xad"': r"Ünïcode\xad",
        '"' + "x" * 60_000 + '"': "x" * 200 + "…",
        "\x00": r"\x00",
        '""': None,
    }
    for header, etag in etags.items():
        faulty.answers[FAULTY_PATH] = [head(f"HTTP/1.1 200 OK\nContent-Length: {len(CONTENT)}\nETag: {header}")]
        load = stage_month(database)
        assert database.run(f"select etag, bytes from pipeline.loads where load_id = {load}") == [(etag, len(CONTENT))]
        assert f"ETag {etag}" in caplog.text
    assert not has_control_characters("".join(caplog.messages))


def test_a_date_that_cannot_be_read_is_ignored(faulty: FaultyFiles) -> None:
    for header, moment in (
        ("Fri, 31 Dec 9999 23:59:59 GMT", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("Fri, 31 Dec 9999 23:59:59 -0100", None),
        ("Mon, 01 Jan 0001 00:00:00 +0100", datetime(2000, 12, 31, 23, tzinfo=UTC)),  # RFC 5322, 4.3
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 99999999999999999999 Jan 2024 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +999999999999999999999", None),
        ("Mon, 01 Jan 2024 00:00:00 -0000", datetime(2024, 1, 1, tzinfo=UTC)),
        ("Mon, 01 Jan 2024 01:00:00 +0100", datetime(2024, 1, 1, tzinfo=UTC)),
        ("\x1b[31m", None),
        ("\x00", None),
        ("9" * 60_000, None),
    ):
        faulty.answers[FAULTY_PATH] = [with_headers(Last_Modified=header)]
        with source.open_file(settings.source_url(FAULTY_PATH)) as download:
            assert download.last_modified == moment, header


def test_a_pause_that_cannot_be_read_is_ignored(faulty: FaultyFiles) -> None:
    for header, seconds in (
        *((each, None) for each in ("-5", "1e9", "+7", "²", "\x1b", "Fri, 31 Dec 9999 23:59:59 -0100")),
        ("7", 7),
        ("9" * 60_000, float("inf")),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0),
    ):
        with pytest.raises(SourceUnavailable) as failure:
            faulty.fetch(status(503, Retry_After=header))
        assert failure.value.retry_after == seconds, header


def test_what_is_no_checksum_of_the_file_decides_nothing(faulty: FaultyFiles, caplog: pytest.LogCaptureFixture) -> None:
    names = ("Content-MD5", "x-amz-checksum-crc32", "x-amz-checksum-sha256", "Set-Cookie")
    values = (ESCAPES, "é" * 100, "=" * 24, "A" * 60_000, "", "\x00", "a=b; max-age=1e999; expires=x")
    others = (
        *(("ETag", f'"{"0" * 32}"'), ("ETag", f'"{"0" * 32}-2"'), ("Content-MD5", "0" * 32)),
        *(("x-amz-checksum-crc32", "AAAAAA==-3"), ("x-amz-checksum-sha256", "3q2+7w==")),
        *(("x-amz-checksum-crc32c", "AAAAAA=="), ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")),
    )
    for name, value in (*product(names, values), *others):
        answer = head(f"HTTP/1.1 200 OK\nContent-Length: {len(CONTENT)}\n{name}: {value}")
        assert faulty.fetch(answer) == CONTENT.encode(), (name, value)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (head(f"HTTP/1.1 404 {ESCAPES}\nContent-Length: 0"), f"the server returned 404 {SHOWN}. "),
        (head(f"HTTP/1.1 404 {'x' * 60_000}\nContent-Length: 0"), f"returned 404 {'x' * 296}…. "),
        (head("HTTP/1.1 404\nContent-Length: 0"), "the server returned 404. "),
        (head(f"HTTP/1.1 {ESCAPES}\nContent-Length: 0"), "no answer ("),
        (head(f"{ESCAPES}\nContent-Length: 0"), "no answer ("),
        (
            head("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 7"),
            "the headers Content-Length contradict each other",
        ),
        (head("HTTP/1.1 200 OK\nContent-Length: 5, 7"), "the headers Content-Length contradict each other"),
        (head(f"HTTP/1.1 200 OK\nContent-Length: {ESCAPES}"), "neither states the length"),
        # Whatever is sent under it, http.client does not read as chunks, so that its end is that of the connection.
        (head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked "), "neither states the length"),
        (head("HTTP/1.1 200 OK\nTransfer-Encoding: \x0bchunked"), "neither states the length"),
        (head(f"HTTP/1.1 200 OK\nContent-Length: 5\nContent-Encoding: {ESCAPES}"), f'Content-Encoding "{SHOWN}"'),
        (redirect("gopher://x/\x1b[31m"), "redirects to what is not https"),
        *((redirect(to), "it is not a valid address, or redirects to one that is not") for to in INVALID),
        (redirect("/\x1b[31m"), "404 File not found"),
        (redirect("/x" * 1_000), "404 File not found"),
        (redirect(f"/{FAULTY_PATH}\r\nContent-Encoding: {'gzip,' * 8_000}gzip"), None),
    ],
)
def test_an_answer_that_cannot_be_read_is_answered_with_a_sentence(
    answer: Answer,
    message: str | None,
    faulty: FaultyFiles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SOURCE_BASE_URL", f"{faulty.bucket.url}?sig=s3cr3t")
    failure = ""
    try:
        assert faulty.fetch(answer) == CONTENT.encode()
    except (FileRejected, SourceUnavailable) as error:
        failure = str(error)
    assert bool(failure) == bool(message)
    assert (message or "") in failure
    assert len(failure) < 2_000
    assert not has_control_characters(failure + "".join(caplog.messages))
    assert "s3cr3t" not in failure + caplog.text
    assert "Traceback" not in caplog.text


def test_a_head_with_a_line_that_is_no_header_is_read_or_rejected_without_a_word_of_the_library(
    faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "urllib3.connection")
    logging.getLogger("urllib3.connection").setLevel(logging.NOTSET)
    monkeypatch.setenv("SOURCE_BASE_URL", f"{faulty.bucket.url}?sig=s3cr3t")
    for line in ("a header without a colon", ": x", "\x1b[31m", "ETag: a\rb", "ETag: a\x0bb\x85c", " x"):
        with suppress(FileRejected):
            answer = head(f"HTTP/1.1 200 OK\n{line}\nContent-Length: {len(CONTENT)}")
            assert faulty.fetch(answer) == CONTENT.encode()
    assert caplog.messages == []


def test_informational_answers_are_skipped_and_a_success_of_a_proxy_is_read(faulty: FaultyFiles) -> None:
    answer = f"HTTP/1.1 200 OK\nContent-Length: {len(CONTENT)}"
    hints = "HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload\nETag: x\n\n"
    assert faulty.fetch(head(f"{hints}HTTP/1.1 102 Processing\n\n{answer}")) == CONTENT.encode()
    assert faulty.fetch(head(answer.replace("200 OK", "203 Non-Authoritative Information"))) == CONTENT.encode()
    with pytest.raises(SourceUnavailable, match="no answer after the informational ones"):
        faulty.fetch(head(hints * 11 + answer))


def test_the_error_of_the_database_is_kept_without_control_characters(database: Database, faulty: FaultyFiles) -> None:
    database.run("""
        create function pipeline.fail() returns trigger language plpgsql as $$
        begin raise exception using message = E'a\\x1b[31mb\\nc' || repeat('x', 100000); end $$
    """)
    database.run(
        "create trigger fail before update on pipeline.loads for each row when (new.status = 'staged') "
        "execute function pipeline.fail()"
    )
    with pytest.raises(psycopg.errors.RaiseException):
        stage_month(database)
    [(error,)] = database.run("select error from pipeline.loads")
    assert error.startswith(r"a\x1b[31mb cxxx")
    assert len(error) < 5_000
    assert not has_control_characters(error)
