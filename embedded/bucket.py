"""A bucket over real HTTPS: serves a folder as S3 would, with a certificate of its own authority."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import trustme

POLL_SECONDS = 0.02  # until a server in a thread sees that it should stop


class BucketHandler(http.server.SimpleHTTPRequestHandler):
    """Files with their length, date and ETag; a missing one is 404."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for the acknowledgement of its headers

    def end_headers(self) -> None:
        """Add the ETag, which for a plain upload to S3 is the file's MD5."""
        file = Path(self.translate_path(self.path))
        if file.is_file():
            self.send_header("ETag", f'"{_md5(file, file.stat().st_mtime_ns)}"')
        super().end_headers()


@lru_cache(maxsize=1024)
def _md5(file: Path, _changed: int) -> str:
    """Hash of a file, kept like S3 keeps it: until the file changes."""
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Bucket:
    """A bucket that is being served.

    Attributes:
        url: its address.
        ca_file: the authority that vouches for it, for SOURCE_CA_FILE.
    """

    url: str
    ca_file: Path


def write_certificates(folder: Path, names: Sequence[str]) -> None:
    """Make ca.pem, for clients, and server.pem, for the server, unless they exist."""
    if (folder / "server.pem").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA(organization_name="sample bucket")
    certificate = authority.issue_cert(*names)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server = folder / "server.pem"
    server.touch(mode=0o600)
    certificate.private_key_and_cert_chain_pem.write_to_path(server)


def make_server(
    directory: Path, certificates: Path, host: str, port: int, handler: type[BucketHandler] = BucketHandler
) -> http.server.ThreadingHTTPServer:
    """An HTTPS server over the directory, bound but not yet serving."""
    server = http.server.ThreadingHTTPServer((host, port), partial(handler, directory=str(directory)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    # The handshake belongs to the connection's thread: in the listener's, one silent client would stop all others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


@contextlib.contextmanager
def serve(directory: Path, handler: type[BucketHandler] = BucketHandler) -> Iterator[Bucket]:
    """Serve a directory from a thread, on a free port of 127.0.0.1, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="company-data-certificates-") as folder:
        certificates = Path(folder)
        write_certificates(certificates, ["127.0.0.1", "localhost"])
        server = make_server(directory, certificates, "127.0.0.1", 0, handler)
        thread = threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True)
        thread.start()
        try:
            yield Bucket(f"https://127.0.0.1:{server.server_address[1]}", certificates / "ca.pem")
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def main() -> None:
    """Serve a directory until the process is stopped."""
    parser = argparse.ArgumentParser(prog="python -m embedded.bucket", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the files")
    parser.add_argument("--certificate-folder", type=Path, required=True, help="where ca.pem and server.pem are kept")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--name", action="append", default=[], help="a further name or address in the certificate")
    options = parser.parse_args()
    write_certificates(options.certificate_folder, ["127.0.0.1", "localhost", *options.name])
    make_server(options.directory, options.certificate_folder, options.host, options.port).serve_forever()


if __name__ == "__main__":
    main()
