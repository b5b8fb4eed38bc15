"""What a notification is sent to: a mail server and an HTTPS server that keep what they get."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar, cast

from embedded.bucket import POLL_SECONDS, Bucket, BucketHandler, serve

Server = TypeVar("Server", bound=socketserver.BaseServer)


class MailServer(socketserver.ThreadingTCPServer):
    """Speaks as much SMTP (RFC 5321) as one message needs; keeps the messages, and the envelope's addresses of each."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.receivers: list[list[str]] = []
        super().__init__(("127.0.0.1", 0), MailHandler)

    @property
    def connection(self) -> str:
        """The address of Airflow's connection to it."""
        return f"smtp://127.0.0.1:{self.server_address[1]}/?disable_ssl=true&disable_tls=true&from_email=airflow@here"


class MailHandler(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        receivers: list[str] = []
        self.answer("220 ready")
        while command := self.rfile.readline().strip():
            verb = command[:4].upper()
            if verb == b"RCPT":
                receivers.append(command.split(b":", 1)[1].strip(b" <>").decode())
            if verb == b"DATA":
                self.answer("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                content = b"".join(line.removeprefix(b".") for line in lines)
                self.server.mails.append(message_from_bytes(content, policy=policy.default))
                self.server.receivers.append(receivers)
            self.answer("221 bye" if verb == b"QUIT" else "250 ok")

    def answer(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Serve from a thread until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def mail_server() -> AbstractContextManager[MailServer]:
    return running(MailServer())


@contextmanager
def webhook(folder: Path, statuses: list[int] | None = None) -> Iterator[tuple[Bucket, list[dict[str, Any]]]]:
    """An HTTPS server, and what was posted to it; it answers with the statuses in turn, and with 200 after them."""
    posted: list[dict[str, Any]] = []
    waiting = [] if statuses is None else statuses

    class Receiver(BucketHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen = {"path": self.path, "authorization": self.headers["Authorization"]}
            posted.append({**seen, **cast("dict[str, Any]", json.loads(body))})
            self.send_response(waiting.pop(0) if waiting else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output free of access logs."""

    with serve(folder, Receiver) as server:
        yield server, posted
