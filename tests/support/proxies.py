"""A forward proxy, as companies have them: HTTPS goes through it in tunnels that CONNECT opens (RFC 9110, 9.3.6)."""

from __future__ import annotations

import http.server
import select
import socket
from contextlib import AbstractContextManager

from support.receivers import running


class Proxy(http.server.ThreadingHTTPServer):
    """Answers CONNECT with a status, of which 200 opens the tunnel; keeps the addresses and Proxy-Authorization."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        self.status = status
        self.tunnels: list[str] = []
        self.credentials: list[str | None] = []
        super().__init__(("127.0.0.1", 0), ProxyHandler)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_CONNECT(self) -> None:
        self.server.tunnels.append(self.path)
        self.server.credentials.append(self.headers["Proxy-Authorization"])
        self.send_response(self.server.status)
        self.end_headers()
        if self.server.status == 200:
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as other:
                self.pass_on(other)

    def pass_on(self, other: socket.socket) -> None:
        """Pass bytes on, both ways, until one end closes."""
        to = {self.connection: other, other: self.connection}
        while True:
            for ready in select.select(list(to), [], [])[0]:
                if not (data := ready.recv(1 << 16)):
                    return
                to[ready].sendall(data)

    def log_message(self, *_: object) -> None:
        """Keep the test's output free of access logs."""


def forward_proxy(status: int = 200) -> AbstractContextManager[Proxy]:
    return running(Proxy(status))
