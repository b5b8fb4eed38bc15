"""A bucket that misbehaves on purpose, over the same HTTPS as the well-behaved one."""

import contextlib
import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from embedded.bucket import Bucket, BucketHandler, serve

Answer = Callable[["MisbehavingHandler"], None]


class MisbehavingHandler(BucketHandler):
    """Answers a path's requests by the answers queued for it, one each, and then as it should."""

    answers: dict[str, list[Answer]]
    requests: list[str]

    def do_GET(self) -> None:
        type(self).requests.append(self.path)
        queued = type(self).answers.get(self.path.partition("?")[0].lstrip("/"), [])
        if queued:
            self.close_connection = True
            queued.pop(0)(self)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Keep the test's output free of access logs."""

    def content(self) -> bytes:
        """The whole file that was asked for."""
        return Path(self.translate_path(self.path)).read_bytes()

    def head(self, **headers: object) -> None:
        """Send the headers of a 200; underscores in names stand for dashes."""
        self.send_head_of(200, headers)

    def send_head_of(self, status: int, headers: Mapping[str, object]) -> None:
        """Send the status and headers; underscores in names stand for dashes."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        # Or the client may follow a redirect on a connection that is just being closed.
        self.send_header("Connection", "close")
        super(BucketHandler, self).end_headers()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def sent(
    make: Callable[[bytes], tuple[Mapping[str, object], bytes]], status: int = 200, broken: bool = False
) -> Answer:
    """Headers and body that are made of the file, which may end with a reset."""

    def answer(handler: MisbehavingHandler) -> None:
        headers, body = make(handler.content() if status == 200 else b"")
        handler.send_head_of(status, headers)
        with contextlib.suppress(OSError):
            handler.wfile.write(body)
        if broken:
            handler.reset()

    return answer


def stored(body: bytes, number: int = 200, **headers: object) -> Answer:
    """Another body, whole."""
    return sent(lambda _: ({"Content_Length": len(body), **headers}, body), number)


def status(number: int, **headers: object) -> Answer:
    """An answer of this status with a short text."""
    return stored(b"<Error><Code>NotNow</Code></Error>", number, **headers)


def s3_error(number: int, code: str, message: str = "", more: str = "", **headers: object) -> Answer:
    """An error as S3 words it."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}<HostId>h</HostId></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'.encode()
    return stored(body, number, Content_Type="application/xml", **headers)


# An error page with status 200.
page = stored(b"<!DOCTYPE html>\n<html><body>We are back soon.</body></html>\n", Content_Type="text/html")


def cut(at: int) -> Answer:
    """A body that ends before its Content-Length says so."""
    return sent(lambda file: ({"Content_Length": len(file)}, file[:at]))


def reset(at: int) -> Answer:
    """A connection that is reset in the middle of the body."""
    return sent(lambda file: ({"Content_Length": len(file)}, file[:at]), broken=True)


# No answer at all: the connection is reset at once.
hang_up = MisbehavingHandler.reset


def stall(at: int, released: threading.Event) -> Answer:
    """A body that stops flowing until the test releases it."""

    def answer(handler: MisbehavingHandler) -> None:
        handler.head(Content_Length=len(handler.content()))
        handler.wfile.write(handler.content()[:at])
        handler.wfile.flush()
        released.wait(30)

    return answer


def during(action: Callable[[], object], at: int = 0) -> Answer:
    """The file; after so many bytes of it the download waits until the action has ended."""

    def answer(handler: MisbehavingHandler) -> None:
        body = handler.content()
        handler.head(Content_Length=len(body))
        handler.wfile.write(body[:at])
        handler.wfile.flush()
        action()
        with contextlib.suppress(OSError):
            handler.wfile.write(body[at:])

    return answer


def before(action: Callable[[], object]) -> Answer:
    """The file, when the action has ended."""

    def answer(handler: MisbehavingHandler) -> None:
        action()
        with_headers()(handler)

    return answer


def trickle(reached: Callable[[], object]) -> Answer:
    """A body that comes a byte at a time, never stopping for the read timeout; meanwhile something happens."""

    def answer(handler: MisbehavingHandler) -> None:
        handler.head(Content_Length=len(handler.content()))
        with contextlib.suppress(OSError):
            for number, byte in enumerate(handler.content()[:200]):
                handler.wfile.write(bytes([byte]))
                time.sleep(0.1)
                if number == 3:
                    reached()

    return answer


def in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Chunked transfer coding, with the empty chunk that ends it."""
    for piece in filter(None, pieces):
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def in_sevens(body: bytes) -> list[bytes]:
    """Chunks of seven bytes, and their end."""
    return list(in_chunks(body[start : start + 7] for start in range(0, len(body), 7)))


def broken_chunks(at: int) -> Answer:
    """A chunked body without its last chunk."""
    return sent(lambda file: ({"Transfer_Encoding": "chunked"}, b"".join(in_sevens(file[:at])[:-1])))


chunked = sent(lambda file: ({"Transfer_Encoding": "chunked"}, b"".join(in_sevens(file))))


def raw(head: str, pieces: Iterable[bytes], count: list[int] | None = None) -> Answer:
    """A body under a head of this text, until it ends or the client hangs up; what is sent of it is counted."""
    sent_bytes = [] if count is None else count

    def answer(handler: MisbehavingHandler) -> None:
        sent_bytes.append(0)
        lines = [*head.split("\n"), "Connection: close", "", ""]
        with contextlib.suppress(OSError):
            handler.wfile.write("\r\n".join(lines).encode("latin-1"))
            for piece in pieces:
                handler.wfile.write(piece)
                sent_bytes.append(len(piece))

    return answer


def packed(cut_at: int | None = None) -> Answer:
    """A gzipped body, whole or cut and then sent with the length of what is left."""

    def make(file: bytes) -> tuple[Mapping[str, object], bytes]:
        body = gzip.compress(file)[:cut_at]
        return {"Content_Length": len(body), "Content_Encoding": "gzip"}, body

    return sent(make)


def with_headers(**headers: object) -> Answer:
    """The file, whole, with other headers."""
    return sent(lambda file: ({"Content_Length": len(file), **headers}, file))


def without_length(**headers: object) -> Answer:
    """The file with headers that do not tell its length; without any, its end is that of the connection."""
    return sent(lambda file: (headers, file))


def noted(seen: list[dict[str, str]], answer: Answer) -> Answer:
    """The answer; what was sent with the request is added to a list."""

    def note(handler: MisbehavingHandler) -> None:
        seen.append({name.lower(): value for name, value in handler.headers.items()})
        answer(handler)

    return note


def seen_by(seen: list[dict[str, str]]) -> Answer:
    return noted(seen, with_headers())


def redirect(to: str, seen: list[dict[str, str]] | None = None) -> Answer:
    answer = stored(b"", 302, Location=to)
    return answer if seen is None else noted(seen, answer)


@contextlib.contextmanager
def misbehaving(folder: Path) -> Iterator[tuple[Bucket, dict[str, list[Answer]], list[str]]]:
    """Serve a folder, with a table of answers to be queued by path, and a list of the paths that were asked for."""

    class Handler(MisbehavingHandler):
        pass

    Handler.answers, Handler.requests = {}, []
    with serve(folder, Handler) as bucket:
        yield bucket, Handler.answers, Handler.requests
