"""A bucket that misbehaves on purpose, over the same HTTPS as the well-behaved one."""

import contextlib
import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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


def status(number: int, **headers: object) -> Answer:
    """An answer of this status with a short text."""

    def answer(handler: MisbehavingHandler) -> None:
        body = b"<Error><Code>NotNow</Code></Error>"
        handler.send_head_of(number, {"Content_Length": len(body), **headers})
        handler.wfile.write(body)

    return answer


def s3_error(number: int, code: str, message: str = "", more: str = "", **headers: object) -> Answer:
    """An error as S3 words it."""

    def answer(handler: MisbehavingHandler) -> None:
        error = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}<HostId>h</HostId></Error>"
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'.encode()
        handler.send_head_of(number, {"Content_Length": len(body), "Content_Type": "application/xml", **headers})
        handler.wfile.write(body)

    return answer


def page(handler: MisbehavingHandler) -> None:
    """An error page with status 200."""
    body = b"<!DOCTYPE html>\n<html><body>We are back soon.</body></html>\n"
    handler.head(Content_Length=len(body), Content_Type="text/html")
    handler.wfile.write(body)


def cut(at: int) -> Answer:
    """A body that ends before its Content-Length says so."""

    def answer(handler: MisbehavingHandler) -> None:
        handler.head(Content_Length=len(handler.content()))
        handler.wfile.write(handler.content()[:at])

    return answer


def reset(at: int) -> Answer:
    """A connection that is reset in the middle of the body."""

    def answer(handler: MisbehavingHandler) -> None:
        handler.head(Content_Length=len(handler.content()))
        handler.wfile.write(handler.content()[:at])
        handler.reset()

    return answer


def hang_up(handler: MisbehavingHandler) -> None:
    """No answer at all: the connection is reset at once."""
    handler.reset()


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


def broken_chunks(at: int) -> Answer:
    """A chunked body without its last chunk."""

    def answer(handler: MisbehavingHandler) -> None:
        body = handler.content()[:at]
        handler.head(Transfer_Encoding="chunked")
        if body:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))

    return answer


def chunked(handler: MisbehavingHandler) -> None:
    """A whole body in chunks of seven bytes."""
    handler.head(Transfer_Encoding="chunked")
    body = handler.content()
    for start in range(0, len(body), 7):
        part = body[start : start + 7]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    handler.wfile.write(b"0\r\n\r\n")


def packed(cut_at: int | None = None) -> Answer:
    """A gzipped body, whole or cut and then sent with the length of what is left."""

    def answer(handler: MisbehavingHandler) -> None:
        body = gzip.compress(handler.content())[:cut_at]
        handler.head(Content_Length=len(body), Content_Encoding="gzip")
        handler.wfile.write(body)

    return answer


def stored(body: bytes, **headers: object) -> Answer:
    """Another body, whole."""

    def answer(handler: MisbehavingHandler) -> None:
        handler.head(Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return answer


def seen_by(seen: list[dict[str, str]]) -> Answer:
    """The file; what was sent with the request is added to a list."""

    def answer(handler: MisbehavingHandler) -> None:
        seen.append({name.lower(): value for name, value in handler.headers.items()})
        with_headers()(handler)

    return answer


def endless(handler: MisbehavingHandler) -> None:
    """A body that ends with the connection, without a length."""
    handler.head()
    handler.wfile.write(handler.content())


def trickle(handler: MisbehavingHandler) -> None:
    """A body that comes a byte at a time, never stopping for as long as the read timeout."""
    handler.head(Content_Length=len(handler.content()))
    with contextlib.suppress(OSError):
        for byte in handler.content()[:200]:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.1)


def without_length(**headers: object) -> Answer:
    """The file with headers that do not tell its length."""

    def answer(handler: MisbehavingHandler) -> None:
        handler.head(**headers)
        with contextlib.suppress(OSError):
            handler.wfile.write(handler.content())

    return answer


def with_headers(**headers: object) -> Answer:
    """The file, whole, with other headers."""

    def answer(handler: MisbehavingHandler) -> None:
        handler.head(Content_Length=len(handler.content()), **headers)
        handler.wfile.write(handler.content())

    return answer


def redirect(to: str, seen: list[dict[str, str]] | None = None) -> Answer:
    """A redirect; what was sent with the request is added to a list."""

    def answer(handler: MisbehavingHandler) -> None:
        if seen is not None:
            seen.append({name.lower(): value for name, value in handler.headers.items()})
        handler.send_head_of(302, {"Location": to, "Content_Length": 0})

    return answer


@contextlib.contextmanager
def misbehaving(folder: Path) -> Iterator[tuple[Bucket, dict[str, list[Answer]], list[str]]]:
    """Serve a folder, with a table of answers to be queued by path, and a list of the paths that were asked for."""

    class Handler(MisbehavingHandler):
        pass

    Handler.answers, Handler.requests = {}, []
    with serve(folder, Handler) as bucket:
        yield bucket, Handler.answers, Handler.requests
