"""Servers that send without an end, or a little that becomes very much: no load takes more than so much memory.

The loads are real, from the request to COPY, each in a process of its own, whose peak of resident memory is measured.
"""

import gzip
import multiprocessing
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Database, FaultyFiles
from support import csv_text
from support.faulty_bucket import MisbehavingHandler, in_chunks, raw
from support.steps import stage_file

from company_data import notifier
from embedded.bucket import serve

STATUS = Path("/proc/self/status")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STATUS.exists(), reason="only Linux states the peak of a process's memory"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # of Python 3.12; the child starts no thread
]

MAX_GROWTH = 64_000_000
LARGE = 80_000_000  # bytes of what has no end, or must not be held in memory
UNREAD = 40_000_000  # more than the buffers of a connection that nobody reads from
PATH, GOOD_PATH = "stores.csv", "good/stores.csv"
HEADER = csv_text.stores().encode()


class Loaded(NamedTuple):
    """How a load ended: its error, if it failed, and by how much the memory of its process grew (bytes)."""

    error: str | None
    growth: int


def memory(field: str) -> int:
    """VmRSS is the resident memory of this process, VmHWM the most that it ever was (bytes)."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def load_and_measure(database: Database, answer: "Connection[Loaded, None]") -> None:
    before, error = memory("VmRSS"), None
    try:
        stage_file(database, "stores")
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    answer.send(Loaded(error, memory("VmHWM") - before))


def load(database: Database) -> Loaded:
    """Load the stores in a process of its own."""
    received, answer = multiprocessing.Pipe(duplex=False)
    # Not forked.SERVER, whose child would import all of Airflow first.
    process = multiprocessing.get_context("fork").Process(target=load_and_measure, args=[database, answer])
    process.start()
    answer.close()  # so that the end of the process ends the wait for its answer
    loaded: Loaded = received.recv()
    process.join()
    return loaded


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


def bombs(layers: int) -> Iterator[bytes]:
    """Zeros, compressed so many times: what is sent, its kilobytes become megabytes."""
    data = b"".join(compressed(endless(b"\0")))
    for _ in range(layers - 1):
        data = gzip.compress(data)
    yield data


def row(start: bytes, piece: bytes) -> Iterator[bytes]:
    """A file whose first row begins so, and never ends."""
    return in_chunks(chain([HEADER + start], endless(piece)))


STORES = endless(b"1,Porto\n")
CHUNKED, GZIP = "\nTransfer-Encoding: chunked", "\nContent-Encoding: gzip"
OK, MISSING = f"HTTP/1.1 200 OK{CHUNKED}", f"HTTP/1.1 404 Not Found{CHUNKED}"
REDIRECT = f"HTTP/1.1 302 Found\nLocation: /{GOOD_PATH}{CHUNKED}"
TOO_LARGE = "FileRejected: .*/stores.csv: .* SOURCE_MAX_BYTES allows 20,000,000, so that .* set SOURCE_MAX_BYTES higher"
ANNOUNCED = f"the server announces {LARGE:,} bytes, and SOURCE_MAX_BYTES allows 20,000,000"
TOO_MUCH_SENT = "the server has sent more than 100,000 bytes, and SOURCE_MAX_BYTES allows 100,000"
LONG_ROW = "the row has more than 1,048,576 bytes"

# The head and the body that are sent, and how the load ends; None: well.
SERVERS: dict[str, tuple[str, Iterable[bytes], str | None]] = {
    "a redirect with an endless body": (REDIRECT, in_chunks(endless(b"x")), None),
    "a redirect that is packed": (f"{REDIRECT}{GZIP}, gzip, gzip", in_chunks(bombs(3)), None),
    "an error with an endless body": (MISSING, in_chunks(endless(b"x")), "404 Not Found"),
    "an error that is packed": (f"{MISSING}{GZIP}", in_chunks(bombs(1)), "404 Not Found"),
    "an error that is packed three times": (f"{MISSING}{GZIP}, gzip, gzip", in_chunks(bombs(3)), "404 Not Found"),
    "a small file that becomes large": (OK + GZIP, in_chunks(compressed(chain([HEADER], STORES))), TOO_LARGE),
    "a length above the limit": (f"HTTP/1.1 200 OK\nContent-Length: {LARGE}", STORES, ANNOUNCED),
    "gzip of nothing": (OK + GZIP, in_chunks(endless(gzip.compress(b""))), TOO_MUCH_SENT),
    "an endless text": (OK, row(b"1,", b"x"), LONG_ROW),
    "an endless quoted text": (OK, row(b'1,"', b'""'), LONG_ROW),
    "an endless header of the file": (OK, in_chunks(endless(b"idx,")), "record does not end"),
    "a chunk of -1 bytes": (OK, chain([b"-1\r\n"], endless(b"x")), "a chunk has a negative length"),
}


@pytest.mark.parametrize("server", SERVERS)
def test_no_server_takes_the_memory_of_a_load(
    server: str, database: Database, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_MAX_BYTES", "100000" if server.startswith("gzip") else "20000000")
    head, body, error = SERVERS[server]
    sent: list[int] = []
    faulty.answers[PATH] = [raw(head, body, sent)]
    faulty.write(GOOD_PATH, csv_text.stores("1,Porto"))
    loaded = load(database)
    if error is None:
        assert loaded.error is None
        assert database.run("select status, row_count from pipeline.loads") == [("staged", 1)]
    else:
        assert re.search(error, loaded.error or "")
    assert loaded.growth < MAX_GROWTH
    if server.startswith(("a redirect", "an error", "a length")):
        assert sum(sent) < UNREAD


def different_rows(count: int) -> Iterator[bytes]:
    """Long rows, no two of which are alike, also without their digits."""
    letters = bytes.maketrans(b"0123456789", b"abcdefghij")
    names = (f"{number:06}".encode().translate(letters) for number in range(count))
    return (b"1,%b\n" % name.ljust(LARGE // count - 3, b"x") for name in names)


def test_a_large_file_is_loaded_in_little_memory(database: Database, faulty: FaultyFiles) -> None:
    small = b"".join(compressed(chain([HEADER], repeat((b"1,".ljust(3_999, b"x") + b"\n") * 100, 200))))
    assert len(small) < 1_000_000
    for head, pieces in ((OK, chain([HEADER], different_rows(500))), (OK + GZIP, [small])):
        faulty.answers[PATH] = [raw(head, in_chunks(pieces))]
        loaded = load(database)
        assert loaded.error is None
        assert loaded.growth < MAX_GROWTH
    loads = database.run("select row_count, bytes from pipeline.loads order by load_id")
    assert loads == [(500, LARGE + len(HEADER)), (20_000, LARGE + len(HEADER))]


@pytest.mark.parametrize("status", ["200 OK", "302 Found\nLocation: /again"])
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
