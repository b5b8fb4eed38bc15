"""Headers that only inform: shown escaped and cut, and ignored where they cannot be read."""

import logging
import re
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
import pytest
from conftest import CONTENT, FAULTY_MONTH, FAULTY_PATH, Database, FaultyFiles
from support.faulty_bucket import Answer, raw, redirect, with_headers
from support.steps import stage_file

from company_data import settings, source
from company_data.errors import FileRejected, SourceUnavailable

pytestmark = pytest.mark.slow

ESCAPES = "a\x1b[31mb\x00c\x9bd\x7f"
SHOWN = r"a\x1b[31mb\x00c\x9bd\x7f"
LENGTH = f"Content-Length: {len(CONTENT)}"


def head(text: str) -> Answer:
    """The file under a head of this text, whose lines are separated by line ends."""
    return raw(text, [CONTENT.encode()])


def has_control_characters(text: str) -> bool:
    return re.search(r"[\x00-\x1f\x7f-\x9f]", text) is not None


def test_an_etag_is_kept_and_logged_as_it_can_be_shown(
    database: Database, faulty: FaultyFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for header, etag in (
        (f'"{ESCAPES}"', SHOWN),
        ('W/"Ünïcode\xad"', r"Ünïcode\xad"),
        ('"' + "x" * 60_000 + '"', "x" * 200 + "…"),
        ('""', None),
    ):
        faulty.answers[FAULTY_PATH] = [head(f"HTTP/1.1 200 OK\n{LENGTH}\nETag: {header}")]
        load = stage_file(database, "sales", FAULTY_MONTH)
        assert database.run(f"select etag, bytes from pipeline.loads where load_id = {load}") == [(etag, len(CONTENT))]
        assert f"ETag {etag}" in caplog.text
    assert not has_control_characters("".join(caplog.messages))


def test_a_date_that_cannot_be_read_is_ignored(faulty: FaultyFiles) -> None:
    for header, moment in (
        ("Fri, 31 Dec 9999 23:59:59 -0100", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 -0000", datetime(2024, 1, 1, tzinfo=UTC)),
        ("Mon, 01 Jan 2024 01:00:00 +0100", datetime(2024, 1, 1, tzinfo=UTC)),
        ("\x1b[31m", None),
    ):
        faulty.answers[FAULTY_PATH] = [with_headers(Last_Modified=header)]
        with source.open_file(settings.source_url(FAULTY_PATH)) as download:
            assert download.last_modified == moment, header


def test_what_is_no_checksum_of_the_file_decides_nothing(faulty: FaultyFiles, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in (
        *(("Content-MD5", value) for value in (ESCAPES, "é" * 100, "=" * 24, "A" * 60_000, "", "0" * 32)),
        *(("ETag", f'"{"0" * 32}"'), ("ETag", f'"{"0" * 32}-2"'), ("Set-Cookie", "a=b; max-age=1e999; expires=x")),
        *(("x-amz-checksum-crc32", "AAAAAA==-3"), ("x-amz-checksum-sha256", "3q2+7w==")),
        *(("x-amz-checksum-crc32c", "AAAAAA=="), ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")),
    ):
        assert faulty.fetch(head(f"HTTP/1.1 200 OK\n{LENGTH}\n{name}: {value}")) == CONTENT.encode(), (name, value)
    assert caplog.messages == []


NO_LENGTH, INVALID = "neither states the length", "it is not a valid address, or redirects to one that is not"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (head(f"HTTP/1.1 404 {ESCAPES}\nContent-Length: 0"), f"the server returned 404 {SHOWN}. "),
        (head(f"HTTP/1.1 404 {'x' * 60_000}\nContent-Length: 0"), f"returned 404 {'x' * 296}…. "),
        (head("HTTP/1.1 404\nContent-Length: 0"), "the server returned 404. "),
        (head(f"{ESCAPES}\nContent-Length: 0"), "no answer ("),
        (head("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 7"), "headers Content-Length contradict each other"),
        (head(f"HTTP/1.1 200 OK\nContent-Length: {ESCAPES}"), NO_LENGTH),
        # Whatever is sent under it, http.client does not read as chunks, so that its end is that of the connection.
        (head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked "), NO_LENGTH),
        (head(f"HTTP/1.1 200 OK\nContent-Length: 5\nContent-Encoding: {ESCAPES}"), f'Content-Encoding "{SHOWN}"'),
        (redirect("gopher://x/\x1b[31m"), "redirects to what is not https"),
        *((redirect(to), INVALID) for to in (f"https://{ESCAPES}/", "https://127.0.0.1:99999999999/", "é", "//[::1")),
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
    for line in ("a header without a colon", ": x", "\x1b[31m", "ETag: a\rb", " x"):
        with suppress(FileRejected):
            assert faulty.fetch(head(f"HTTP/1.1 200 OK\n{line}\n{LENGTH}")) == CONTENT.encode()
    assert caplog.messages == []


def test_informational_answers_are_skipped_and_a_success_of_a_proxy_is_read(faulty: FaultyFiles) -> None:
    hints = "HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload\nETag: x\n\n"
    for start in (f"{hints}HTTP/1.1 102 Processing\n\nHTTP/1.1 200 OK", "HTTP/1.1 203 Non-Authoritative Information"):
        assert faulty.fetch(head(f"{start}\n{LENGTH}")) == CONTENT.encode()
    with pytest.raises(SourceUnavailable, match="no answer after the informational ones"):
        faulty.fetch(head(f"{hints * 11}HTTP/1.1 200 OK\n{LENGTH}"))


def test_the_error_of_the_database_is_kept_without_control_characters(database: Database, faulty: FaultyFiles) -> None:
    database.run("""
        create function pipeline.fail() returns trigger language plpgsql as $$
        begin raise exception using message = E'a\\x1b[31mb\\nc' || repeat('x', 100000); end $$
    """)
    staged = "after update on pipeline.loads for each row when (new.status = 'staged')"
    database.run(f"create trigger fail {staged} execute function pipeline.fail()")
    with pytest.raises(psycopg.errors.RaiseException):
        stage_file(database, "sales", FAULTY_MONTH)
    [(error,)] = database.run("select error from pipeline.loads")
    assert error.startswith(r"a\x1b[31mb cxxx")
    assert len(error) < 5_000
    assert not has_control_characters(error)
