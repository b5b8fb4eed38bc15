"""Servers that send without an end, or a little that becomes very much: no load takes more than so much memory.

The loads are real, from the request to COPY, each in a process of its own, whose peak of resident memory is measured.
"""

import gzip
import multiprocessing
import os
import re
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
from support import csv_text, forked
from support.faulty_bucket import MisbehavingHandler, in_chunks, raw
from support.steps import stage_file

from company_data import notifier
from embedded.bucket import serve

STATUS = Path("/proc/self/status")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STATUS.exists(), reason="only Linux states the peak of a process's memory"),
]

MAX_GROWTH = 64_000_000
LARGE = 100_000_000  # bytes of what has no end, or must not be held in memory
UNREAD = 40_000_000  # more than the buffers of a connection that nobody reads from
PATH, GOOD_PATH = "stores.csv", "good/stores.csv"
HEADER = csv_text.stores().encode()
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
        stage_file(database, "stores")
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


def endless(piece: bytes) -> list[bytes]:
    """The same over and over."""
    piece *= max(100_000 // len(piece), 1)
    return [piece] * (LARGE // len(piece))


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Compress without keeping it all."""
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


@cache
def bomb(layers: int) -> bytes:
    return gzip.compress(bomb(layers - 1)) if layers > 1 else b"".join(compressed(endless(b"\0")))


def bombs(layers: int) -> Iterator[bytes]:
    """Zeros, compressed so many times: what is sent, its kilobytes become a hundred megabytes."""
    yield bomb(layers)


STORES = endless(b"1,Porto\n")
CHUNKED, GZIP = "\nTransfer-Encoding: chunked", "\nContent-Encoding: gzip"
LENGTH = "HTTP/1.1 200 OK\nContent-Length: "
OK = f"HTTP/1.1 200 OK{CHUNKED}"
PACKED = f"{OK}{GZIP}"
REDIRECT = f"HTTP/1.1 302 Found\nLocation: /{GOOD_PATH}"
MISSING = f"HTTP/1.1 404 Not Found{CHUNKED}"
TOO_LARGE = "FileRejected: .*/stores.csv: .* SOURCE_MAX_BYTES allows 20,000,000, so that .* set SOURCE_MAX_BYTES higher"
TOO_MUCH_SENT = "the server has sent more than 100,000 bytes, and SOURCE_MAX_BYTES allows 100,000"
LONG_ROW = "the row has more than 1,048,576 bytes"


def rows(start: bytes, piece: bytes) -> Iterator[bytes]:
    """A file whose first row begins so, and never ends."""
    return in_chunks(chain([HEADER + start], endless(piece)))


# The head and the body that are sent, and how the load ends; None: well.
SERVERS: dict[str, tuple[str, Iterable[bytes], str | None]] = {
    "a redirect with an endless body": (f"{REDIRECT}{CHUNKED}", in_chunks(endless(b"x")), None),
    "a redirect without a length": (REDIRECT, endless(b"x"), None),
    "a redirect that is packed": (f"{REDIRECT}{CHUNKED}{GZIP}, gzip, gzip", in_chunks(bombs(3)), None),
    "a redirect with eight thousand codings": (
        f"{REDIRECT}{CHUNKED}{GZIP}{',gzip' * 8_000}",
        in_chunks([b"x"]),
        None,
    ),
    "an error with an endless body": (MISSING, in_chunks(endless(b"x")), "404 Not Found"),
    "an error that is packed": (f"{MISSING}{GZIP}", in_chunks(bombs(1)), "404 Not Found"),
    "an error that is packed three times": (f"{MISSING}{GZIP}, gzip, gzip", in_chunks(bombs(3)), "404 Not Found"),
    "a small file that becomes large": (PACKED, in_chunks(compressed(chain([HEADER], STORES))), TOO_LARGE),
    "a large file": (OK, in_chunks(chain([HEADER], STORES)), TOO_LARGE),
    "a length above the limit": (
        f"{LENGTH}{LARGE}",
        STORES,
        f"the server announces {LARGE:,} bytes, and SOURCE_MAX_BYTES allows 20,000,000",
    ),
    "a length of sixty thousand digits": (LENGTH + "9" * 60_000, STORES, "FileRejected: "),
    "gzip of nothing": (PACKED, in_chunks(endless(gzip.compress(b""))), TOO_MUCH_SENT),
    "gzip with an endless name": (
        PACKED,
        in_chunks(chain([b"\x1f\x8b\x08\x08\0\0\0\0\0\0"], endless(b"x"))),
        TOO_MUCH_SENT,
    ),
    "an endless row": (OK, rows(b"", b"1"), LONG_ROW),
    "an endless text": (OK, rows(b"1,", b"x"), LONG_ROW),
    "an endless quoted text of lines": (OK, rows(b'1,"', b"\n"), "a quote opens here and never closes"),
    "an endless quoted text of quotes": (OK, rows(b'1,"', b'""'), LONG_ROW),
    "endless line ends": (OK, rows(b"1,Porto\n", b"\n"), "missing data for column"),
    "an endless header of the file": (OK, in_chunks(endless(b"idx,")), "record does not end"),
    "an endless quoted header": (OK, in_chunks(chain([b'"'], endless(b"\n"))), "record does not end"),
    "a chunk of -1 bytes": (OK, chain([b"-1\r\n"], endless(b"x")), "a chunk has a negative length"),
    "a chunk of sixty thousand digits": (OK, chain([b"f" * 60_000 + b"\r\n", HEADER], STORES), TOO_LARGE),
    "chunks of one byte": (OK, in_chunks(bytes([byte]) for byte in GOOD + b"\n" * 60_000), None),
    "a hundred thousand answers to wait": (
        "HTTP/1.1 100 Continue\n\n" * 100_000 + OK,
        in_chunks([GOOD]),
        "there is no answer after the informational ones",
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_no_server_takes_the_memory_of_a_load(
    server: str, database: Database, faulty: FaultyFiles, loader: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_MAX_BYTES", "100000" if server.startswith("gzip") else "20000000")
    head, body, error = SERVERS[server]
    sent: list[int] = []
    faulty.answers[PATH] = [raw(head, body, sent)]
    faulty.write(GOOD_PATH, GOOD)
    loaded = loader(database)
    if error is None:
        assert loaded.error is None
        assert database.run("select status, row_count from pipeline.loads") == [("staged", 1)]
    else:
        assert re.search(error, loaded.error or "")
    assert loaded.growth < MAX_GROWTH
    if server.startswith(("a redirect", "an error", "a length")):
        assert sum(sent) < UNREAD


def test_long_rows_that_all_differ_are_loaded_in_little_memory(
    database: Database, faulty: FaultyFiles, loader: Load
) -> None:
    letters, count = bytes.maketrans(b"0123456789", b"abcdefghij"), 500
    # They differ also without their digits.
    names = (f"{number:06}".encode().translate(letters) for number in range(count))
    rows = (b"1,%b\n" % name.ljust(LARGE // count, b"x") for name in names)
    faulty.answers[PATH] = [raw(OK, in_chunks(chain([HEADER], rows)))]
    loaded = loader(database)
    assert loaded.error is None
    assert loaded.growth < MAX_GROWTH
    assert database.run("select row_count from pipeline.loads") == [(count,)]


def test_a_small_file_that_becomes_large_is_loaded_in_little_memory_where_the_limit_allows_it(
    database: Database, faulty: FaultyFiles, loader: Load
) -> None:
    rows, row = 20_000, b"1," + b"x" * 4_997 + b"\n"
    data = b"".join(compressed(chain([HEADER], repeat(row * 100, rows // 100))))
    assert len(data) < 1_000_000
    faulty.answers[PATH] = [raw(PACKED, in_chunks([data]))]
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
            raw(f"HTTP/1.1 {status}{CHUNKED}", in_chunks(endless(b"x")), sent)(self)

    with serve(tmp_path, Receiver) as receiver:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(receiver.ca_file))
        message = notifier.Message("failed", "dag", "run", None, None, "reason", "link")
        with suppress(notifier.NotificationError):
            notifier.post_to_webhook(receiver.url, message)
    assert sent
    assert sum(sent) < UNREAD
