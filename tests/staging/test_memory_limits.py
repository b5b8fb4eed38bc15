"""Servers that send without an end, or a little that becomes very much: no load takes more than so much memory.

Each sends far more than the limit, and at most so much, whatever is read of it. The loads are real, from the request to
COPY, each in a process of its own, whose peak of resident memory is measured.
"""

import gzip
import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import chain, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import AIRFLOW_HOME, Database, FaultyFiles
from support import forked
from support.faulty_bucket import Answer, MisbehavingHandler
from support.steps import stage_file

from company_data import notifier
from company_data.csv_files import MAX_ROW_BYTES
from embedded.bucket import serve

STATUS = Path("/proc/self/status")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.path.exists("/proc/self/status"), reason="only Linux states the peak of a process's memory"
    ),
]

MAX_GROWTH = 64_000_000
LARGE = 100_000_000  # bytes of a file that must not be held in memory
ENDLESS = 160_000_000  # bytes that are sent of what has no end
UNREAD = 40_000_000  # more than the buffers of a connection that nobody reads from
PATH, GOOD_PATH = "stores.csv", "good/stores.csv"
HEADER = b"idx,location\n"
GOOD = HEADER + b"1,Porto\n"


class Loaded(NamedTuple):
    """How a load ended: its error, if it failed, and by how much the memory of its process grew (bytes)."""

    error: str | None
    growth: int


def memory(field: str) -> int:
    """VmRSS is the resident memory of this process, VmHWM the most that it ever was (bytes)."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def load(environment: dict[str, str], database: Database, answer: "Connection[Loaded, None]") -> None:
    os.environ.update(environment)
    before, error = memory("VmRSS"), None
    try:
        stage_file(database, PATH, "stores")
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    answer.send(Loaded(error, memory("VmHWM") - before))


def serve_loads(asked: "Connection[None, tuple[dict[str, str], Database]]", answer: "Connection[Loaded, None]") -> None:
    """Fork a process for each load from one that has imported all that it needs."""
    AIRFLOW_HOME.cleanup()  # that of this process, which is killed
    while True:
        process = multiprocessing.get_context("fork").Process(target=load, args=(*asked.recv(), answer))
        process.start()
        process.join()


Load = Callable[[Database], Loaded]


@pytest.fixture(scope="module")
def loader() -> Iterator[Load]:
    """Loads the stores in another process."""
    asked, ask = multiprocessing.Pipe(duplex=False)
    answers, answer = multiprocessing.Pipe(duplex=False)
    process = forked.SERVER.Process(target=serve_loads, args=(asked, answer))
    process.start()
    answer.close()  # so that the end of the process ends a wait for its answer

    def run(database: Database) -> Loaded:
        ask.send((dict(os.environ), database))
        loaded: Loaded = answers.recv()
        return loaded

    yield run
    process.kill()
    process.join()


def body(pieces: Iterable[bytes], sent: list[int]) -> Answer:
    """Send this until it ends, or the client hangs up."""

    def answer(handler: MisbehavingHandler) -> None:
        sent.append(0)
        with suppress(OSError):
            for piece in pieces:
                handler.wfile.write(piece)
                sent[-1] += len(piece)

    return answer


def http(head: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """An answer with this head, whose lines are separated by line ends."""
    lines = head.strip().split("\n")
    yield "".join(f"{line.strip()}\r\n" for line in [*lines, "Connection: close", ""]).encode("latin-1")
    yield from pieces


def endless(piece: bytes) -> Iterator[bytes]:
    """The same over and over."""
    piece *= max(100_000 // len(piece), 1)
    return repeat(piece, ENDLESS // len(piece))


def in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Chunked transfer coding, with its end."""
    for piece in filter(None, pieces):
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Compress without keeping it all."""
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


@cache
def bomb(layers: int) -> bytes:
    """Zeros, compressed so many times: what is sent, its kilobytes become a hundred megabytes and more."""
    return gzip.compress(bomb(layers - 1)) if layers > 1 else b"".join(packed(endless(b"\0")))


def words(length: int, count: int) -> Iterator[bytes]:
    """Different words, also without their digits."""
    for number in range(count):
        name = f"{number:06}".translate(str.maketrans("0123456789", "abcdefghij")).encode()
        yield name.ljust(length, b"x")


def distinct_rows(length: int) -> Iterator[bytes]:
    return chain([HEADER], (b"1,%b\n" % word for word in words(length, LARGE // length)))


CHUNKED = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked"
PACKED = f"{CHUNKED}\nContent-Encoding: gzip"
REDIRECT = f"HTTP/1.1 302 Found\nLocation: /{GOOD_PATH}\nTransfer-Encoding: chunked"
MISSING = "HTTP/1.1 404 Not Found\nTransfer-Encoding: chunked"
TOO_LARGE = "FileRejected: .*/stores.csv: .* SOURCE_MAX_BYTES allows 20,000,000, so that .* set SOURCE_MAX_BYTES higher"

# What is sent, and how the load ends; None: well.
SERVERS: dict[str, tuple[Callable[[], Iterable[bytes]], str | None]] = {
    "a redirect with an endless body": (lambda: http(REDIRECT, in_chunks(endless(b"x"))), None),
    "a redirect with an endless body without a length": (
        lambda: http(f"HTTP/1.1 302 Found\nLocation: /{GOOD_PATH}", endless(b"x")),
        None,
    ),
    "a redirect whose body is compressed": (
        lambda: http(f"{REDIRECT}\nContent-Encoding: gzip", in_chunks([bomb(1)])),
        None,
    ),
    "a redirect whose body is compressed three times": (
        lambda: http(f"{REDIRECT}\nContent-Encoding: gzip, gzip, gzip", in_chunks([bomb(3)])),
        None,
    ),
    "a redirect with eight thousand codings": (
        lambda: http(f"{REDIRECT}\nContent-Encoding: {'gzip,' * 8_000}gzip", in_chunks([b"x"])),
        None,
    ),
    "an error with an endless body": (lambda: http(MISSING, in_chunks(endless(b"x"))), "404 Not Found"),
    "an error whose body is compressed": (
        lambda: http(f"{MISSING}\nContent-Encoding: gzip", in_chunks([bomb(1)])),
        "404 Not Found",
    ),
    "an error whose body is compressed three times": (
        lambda: http(f"{MISSING}\nContent-Encoding: gzip, gzip, gzip", in_chunks([bomb(3)])),
        "404 Not Found",
    ),
    "a small file that becomes large": (
        lambda: http(PACKED, in_chunks(packed(chain([HEADER], endless(b"1,Porto\n"))))),
        TOO_LARGE,
    ),
    "a large file": (lambda: http(CHUNKED, in_chunks(chain([HEADER], endless(b"1,Porto\n")))), TOO_LARGE),
    "a length above the limit": (
        lambda: http(f"HTTP/1.1 200 OK\nContent-Length: {ENDLESS}", endless(b"1,Porto\n")),
        f"the server announces {ENDLESS:,} bytes, and SOURCE_MAX_BYTES allows 20,000,000",
    ),
    "a length of sixty thousand digits": (
        lambda: http(f"HTTP/1.1 200 OK\nContent-Length: {'9' * 60_000}", endless(b"1,Porto\n")),
        "FileRejected: ",
    ),
    "gzip of nothing": (
        lambda: http(PACKED, in_chunks(endless(gzip.compress(b"")))),
        "the server has sent more than 100,000 bytes, and SOURCE_MAX_BYTES allows 100,000",
    ),
    "gzip with an endless name": (
        lambda: http(PACKED, in_chunks(chain([b"\x1f\x8b\x08\x08\0\0\0\0\0\0"], endless(b"x")))),
        "the server has sent more than 100,000 bytes, and SOURCE_MAX_BYTES allows 100,000",
    ),
    "an endless row": (lambda: http(CHUNKED, in_chunks(chain([HEADER], endless(b"1")))), "the row goes on for more"),
    "an endless text": (lambda: http(CHUNKED, in_chunks(chain([HEADER, b"1,"], endless(b"x")))), "the row goes on"),
    "an endless quoted text": (
        lambda: http(CHUNKED, in_chunks(chain([HEADER, b'1,"'], endless(b"x")))),
        "a quote opens here and never closes",
    ),
    "an endless quoted text of lines": (
        lambda: http(CHUNKED, in_chunks(chain([HEADER, b'1,"'], endless(b"\n")))),
        "a quote opens here and never closes",
    ),
    "an endless quoted text of quotes": (
        lambda: http(CHUNKED, in_chunks(chain([HEADER, b'1,"'], endless(b'""')))),
        "the row goes on for more than 1,048,576 bytes",
    ),
    "endless line ends": (lambda: http(CHUNKED, in_chunks(chain([GOOD], endless(b"\n")))), "missing data for column"),
    "endless commas": (lambda: http(CHUNKED, in_chunks(chain([HEADER], endless(b",")))), "extra data after last"),
    "an endless header of the file": (lambda: http(CHUNKED, in_chunks(endless(b"idx,"))), "record does not end"),
    "an endless quoted header of the file": (
        lambda: http(CHUNKED, in_chunks(chain([b'"'], endless(b"\n")))),
        "record does not end",
    ),
    "a chunk of -1 bytes": (lambda: http(CHUNKED, chain([b"-1\r\n"], endless(b"x"))), "a chunk has a negative length"),
    "a chunk of -2 bytes": (lambda: http(CHUNKED, chain([b"-2\r\n"], endless(b"x"))), "a chunk has a negative length"),
    "a chunk of sixty thousand digits": (
        lambda: http(CHUNKED, chain([b"f" * 60_000 + b"\r\n", HEADER], endless(b"1,Porto\n"))),
        TOO_LARGE,
    ),
    "an endless chunk length": (lambda: http(CHUNKED, endless(b"0")), "SourceUnavailable: .*chunk size"),
    "an endless chunk extension": (lambda: http(CHUNKED, chain([b"9;"], endless(b"x"))), "got more than 65536 bytes"),
    "an endless trailer": (lambda: http(CHUNKED, chain([b"0\r\n"], endless(b"x"))), "got more than 65536 bytes"),
    "a million trailers": (
        lambda: http(CHUNKED, chain([b"0\r\n"], repeat(b"a: b\r\n" * 10_000, 100), [b"\r\n"])),
        "there is no header",
    ),
    "chunks of one byte": (lambda: http(CHUNKED, in_chunks(bytes([byte]) for byte in GOOD + b"\n" * 60_000)), None),
    "an endless status": (lambda: endless(b"HTTP/1.1 200 "), "SourceUnavailable: "),
    "an endless field of the head": (lambda: chain([b"HTTP/1.1 200 OK\r\na: "], endless(b"x")), "got more than 65536"),
    "endless fields of the head": (lambda: chain([b"HTTP/1.1 200 OK\r\n"], endless(b"a: b\r\n")), "more than 100 head"),
    "a hundred thousand answers to wait": (
        lambda: chain(repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 100_000), http(CHUNKED, in_chunks([GOOD]))),
        None,
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_no_server_takes_the_memory_of_a_load(
    server: str, database: Database, faulty: FaultyFiles, loader: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_MAX_BYTES", "100000" if server.startswith("gzip") else "20000000")
    answer, error = SERVERS[server]
    sent: list[int] = []
    faulty.answers[PATH] = [body(answer(), sent)]
    faulty.write(GOOD_PATH, GOOD)
    loaded = loader(database)
    if error is None:
        assert loaded.error is None
        assert database.run("select status, row_count from pipeline.loads") == [("staged", 1)]
    else:
        assert loaded.error is not None
        assert_matches(error, loaded.error)
    assert loaded.growth < MAX_GROWTH
    if server.startswith(("a redirect", "an error", "a length")):
        assert sent[0] < UNREAD


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


@pytest.mark.parametrize("length", [200_000, MAX_ROW_BYTES - 100])
def test_long_rows_that_all_differ_are_loaded_in_little_memory(
    length: int, database: Database, faulty: FaultyFiles, loader: Load
) -> None:
    faulty.answers[PATH] = [body(http(PACKED, in_chunks(packed(distinct_rows(length)))), [])]
    loaded = loader(database)
    assert loaded.error is None
    assert loaded.growth < MAX_GROWTH
    assert database.run("select row_count from pipeline.loads") == [(LARGE // length,)]


def test_a_small_file_that_becomes_large_is_loaded_in_little_memory_where_the_limit_allows_it(
    database: Database, faulty: FaultyFiles, loader: Load
) -> None:
    rows, row = 20_000, b"1," + b"x" * 4_997 + b"\n"
    data = b"".join(packed(chain([HEADER], repeat(row * 100, rows // 100))))
    assert len(data) < 1_000_000
    faulty.answers[PATH] = [body(http(PACKED, in_chunks([data])), [])]
    loaded = loader(database)
    assert loaded.error is None
    assert loaded.growth < MAX_GROWTH
    assert database.run("select row_count, bytes from pipeline.loads") == [(20_000, 100_000_013)]


@pytest.mark.parametrize("status", ["200 OK", "302 Found\nLocation: /again", "500 No"])
def test_the_answer_of_the_webhook_is_not_read(status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "WEBHOOK_PAUSES", ())
    sent: list[int] = []

    class Receiver(MisbehavingHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body(http(f"HTTP/1.1 {status}\nTransfer-Encoding: chunked", in_chunks(endless(b"x"))), sent)(self)

    with serve(tmp_path, Receiver) as receiver:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(receiver.ca_file))
        message = notifier.Message("failed", "dag", "run", None, None, "reason", "link")
        with suppress(notifier.NotificationError):
            notifier.post_to_webhook(receiver.url, message)
    assert sent
    assert max(sent) < UNREAD
