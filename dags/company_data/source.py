"""Reads one file of the bucket over HTTPS, whole or not at all."""

from __future__ import annotations

import base64
import gzip
import hashlib
import ssl
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Protocol, cast

import requests
import urllib3

from company_data import s3_errors
from company_data.errors import FileMissing, FileNotYetAvailable, FileRejected, SourceUnavailable, shown
from company_data.http_client import (
    GZIP_CODINGS,
    INVALID_ADDRESS,
    NO_CODINGS,
    Session,
    explain,
    is_transient,
    one_line,
    reason,
    without_queries,
    without_secrets,
)
from company_data.settings import source_ca_file, source_max_bytes

CHUNK_BYTES = 1 << 18
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
MAX_REDIRECTS = 5
MAX_SHOWN_BYTES = 40
MAX_ETAG = 200

GZIP_START = b"\x1f\x8b"

KEPT = "Nothing was loaded, and what was published before stays."
MISSING_OR_FORBIDDEN = (
    "Either the file may not be read, or it is missing: S3 also returns 403 for a missing file of a bucket that may not "
    "be listed. "
)
RETRIED = "The task tries again by itself. When it has given up, check the source and clear this run."


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


# Headers with a checksum in base64, of the bytes as they are sent or of the text. The standard library has no CRC32C and
# CRC64NVME. An ETag is none: it may be the MD5 of the file, or anything else.
CHECKSUMS: dict[str, Callable[[], _Hash]] = {
    "x-amz-checksum-crc32": _Crc32,
    "x-amz-checksum-sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "x-amz-checksum-sha256": hashlib.sha256,
    "Content-MD5": lambda: hashlib.md5(usedforsecurity=False),
}


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Download:
    """A file that is being read.

    Attributes:
        address: where it is, without secrets.
        etag: the server's ETag, without quotes, as it can be shown.
        last_modified: when the server says that the file was changed.
        bytes: length of the text read so far, decompressed if it is sent compressed.
        sha256: hash of that text.
    """

    def __init__(self, address: str, response: requests.Response, max_bytes: int) -> None:
        """Take over an answer whose body has not been read, and which may have this many bytes, as text and as sent.

        Raises:
            FileRejected: the body is compressed in an unknown way, is too large, or its end is not distinguishable from a
                lost connection.
        """
        headers = response.headers
        self.address = address
        self.etag = shown(headers.get("ETag", "").removeprefix("W/").strip('"'), MAX_ETAG) or None
        self.last_modified = _http_date(headers.get("Last-Modified"))
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self._max_bytes = max_bytes
        self._sent_bytes = 0
        self._response = response
        self._is_gzip = _is_gzip_encoding(address, headers.get("Content-Encoding", ""))
        # As http.client compares it, which takes "chunked " for no chunks.
        is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = response.raw.length_remaining
        if length is None and not is_chunked:
            raise FileRejected(
                f"{address}: the server neither states the length of the file nor sends it in chunks, so a lost connection "
                f"would look like the end of the file. {KEPT} Serve it with a Content-Length."
            )
        if length is not None and length > self._max_bytes:
            raise self._too_large(f"the server announces {length:,} bytes")
        self._checksums = [
            (name, value, new_hash(), new_hash())
            for name, new_hash in CHECKSUMS.items()
            if (value := _decoded(headers.get(name, ""), len(new_hash().digest())))
        ]
        self._start = b""

    def chunks(self) -> Iterator[bytes]:
        """The text of the file, piece by piece.

        Raises:
            FileRejected: the file is not the gzip that the server says it is, or is too large.
            SourceUnavailable: the connection broke, stalled or ended early, or the bytes do not match a checksum.
        """
        body: _Readable = gzip.GzipFile(fileobj=cast(IO[bytes], self)) if self._is_gzip else self
        try:
            while chunk := body.read(CHUNK_BYTES):
                self.bytes += len(chunk)
                if self.bytes > self._max_bytes:
                    sent = f", compressed to {self._sent_bytes:,}" if self._is_gzip else ""
                    raise self._too_large(f"the file has more than {self._max_bytes:,} bytes{sent}")
                self.sha256.update(chunk)
                for _, _, _, of_text in self._checksums:
                    of_text.update(chunk)
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError, EOFError, zlib.error) as error:
            # One byte is too short to say.
            if isinstance(error, gzip.BadGzipFile | zlib.error) and self._start != GZIP_START[:1]:
                raise self._not_gzip(error) from None
            raise SourceUnavailable(
                f"{self.address}: the download stopped after {self.bytes:,} bytes ({reason(error)}). {KEPT} {RETRIED}"
            ) from None
        for name, expected, of_sent, of_text in self._checksums:
            if expected not in (of_sent.digest(), of_text.digest()):
                raise SourceUnavailable(
                    f"{self.address}: the received bytes have the checksum {_encoded(of_sent.digest())}, and the server "
                    f"announced {name}: {_encoded(expected)}, so they were changed in transit. {KEPT} {RETRIED}"
                )

    def read(self, size: int, /) -> bytes:
        """Bytes as they are sent: the input of gzip."""
        data: bytes = self._response.raw.read(size)
        self._sent_bytes += len(data)
        # Compressed data without an end may decompress to nothing.
        if self._sent_bytes > self._max_bytes:
            raise self._too_large(f"the server has sent more than {self._max_bytes:,} bytes")
        self._start += data[: MAX_SHOWN_BYTES - len(self._start)]
        for _, _, of_sent, _ in self._checksums:
            of_sent.update(data)
        return data

    def _too_large(self, problem: str) -> FileRejected:
        return FileRejected(
            f"{self.address}: {problem}, and SOURCE_MAX_BYTES allows {self._max_bytes:,}, so that no file fills the disk of "
            f"the database. {KEPT} If the file is right, set SOURCE_MAX_BYTES higher, and see that there is room for it "
            f'("A full disk" in docs/server.md); otherwise correct the file. Then clear this run.'
        )

    def _not_gzip(self, error: Exception) -> FileRejected:
        """The error for a body that is damaged or not compressed; one that is cut off may be whole the next time."""
        if self._start.startswith(GZIP_START):
            problem = f"the gzip data is damaged ({reason(error)})"
            advice = "Upload the file again"
        else:
            with suppress(urllib3.exceptions.HTTPError, OSError):
                self.read(MAX_SHOWN_BYTES)
            start = ascii(self._start.decode("latin-1"))
            problem = f"the server sends Content-Encoding: gzip, but the file is not gzip: it begins with {start}"
            advice = "Remove the Content-Encoding from the stored file, or compress it"
        return FileRejected(f"{self.address}: {problem}. {KEPT} {advice}, then clear this run.")


@contextmanager
def open_file(url: str, late_until: datetime | None = None) -> Iterator[Download]:
    """Start a download, over HTTPS only, also after redirects. The authorities are those of SOURCE_CA_FILE, if it is set.

    Args:
        url: the file's address.
        late_until: moment until which a missing file may still come.

    Raises:
        FileRejected: the address, its certificate or the answer is such that a retry would find the same.
        FileMissing: 404 or 403.
        FileNotYetAvailable: the same, and the file may be late.
        SourceUnavailable: the network or the server failed.
        ValueError: SOURCE_MAX_BYTES is not a number of bytes.
    """
    address, max_bytes = without_secrets(url), source_max_bytes()
    if not url.lower().startswith("https://"):
        raise FileRejected(f"{address}: only https is read, and this is not. {KEPT} Correct SOURCE_BASE_URL.")
    authorities = source_ca_file()
    if authorities:
        _require_authorities(address, authorities)
    with Session() as session:
        session.adapters.pop("http://")
        session.max_redirects = MAX_REDIRECTS
        session.headers["Accept-Encoding"] = "gzip"
        if "?" not in url:
            # Asks S3 for its checksum. A signature in the query would have to cover this header.
            session.headers["x-amz-checksum-mode"] = "ENABLED"
        try:
            # Given with the request: REQUESTS_CA_BUNDLE overrides Session.verify.
            verify = str(authorities) if authorities else True
            response = session.get(url, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), verify=verify)
        except requests.RequestException as error:
            problem, advice = explain(error)
            if advice:
                raise FileRejected(f"{address}: {problem}. {KEPT} {advice} Then clear this run.") from None
            raise SourceUnavailable(f"{address}: {problem}. {KEPT} {RETRIED}") from None
        except ValueError:
            problem, advice = INVALID_ADDRESS
            raise FileRejected(f"{address}: {problem}. {KEPT} {advice} Then clear this run.") from None
        except OSError as error:  # REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, which requests reads without SOURCE_CA_FILE
            raise FileRejected(f"{address}: {error}. {KEPT} Correct that file, or set SOURCE_CA_FILE.") from None
        with response:
            _require_success(address, response, late_until)
            yield Download(address, response, max_bytes)


def _require_authorities(address: str, file: Path) -> None:
    """Raise FileRejected if SOURCE_CA_FILE cannot be read or holds no certificate."""
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise FileRejected(
            f"{address}: SOURCE_CA_FILE is {file}, which cannot be used ({reason(error)}), so the server's certificate "
            f"cannot be verified. {KEPT} Correct SOURCE_CA_FILE: it names a file of certificates in PEM format."
        ) from None


def _require_success(address: str, response: requests.Response, late_until: datetime | None) -> None:
    """Raise the error that the status and, where it is more precise, S3's code in the body stand for."""
    if response.status_code in (requests.codes.ok, requests.codes.non_authoritative_info):
        return
    code, said = s3_errors.read_error(response)
    status = one_line(f"{response.status_code} {response.reason or ''}".strip())
    problem = without_queries(f"the server returned {status}{said}", response)
    advice = s3_errors.ADVICE.get(code or "")
    if not advice and (is_transient(response.status_code) or code in s3_errors.TRANSIENT):
        raise SourceUnavailable(
            f"{address}: {problem}. {KEPT} {RETRIED}", _retry_after(response.headers.get("Retry-After"))
        )
    if not advice:
        is_missing = response.status_code == requests.codes.not_found
        is_forbidden = response.status_code == requests.codes.forbidden
        reading = MISSING_OR_FORBIDDEN if is_forbidden else ""
        if (is_missing or is_forbidden) and late_until and datetime.now(UTC) < late_until:
            raise FileNotYetAvailable(
                f"{address}: {problem}. {KEPT} {reading}The month has just ended and the file may be late: "
                f"the task requests it again until {late_until:%Y-%m-%d %H:%M} UTC.",
                late_until,
            )
        if is_forbidden or is_missing:
            advice = "Upload the file, or make it public."
            if is_missing:
                advice = "Upload the file, or correct SOURCE_BASE_URL or the months that are scheduled."
            raise FileMissing(f"{address}: {problem}. {KEPT} {reading}{advice} Then clear this run.")
        advice = "Correct the server or SOURCE_BASE_URL."
    raise FileRejected(f"{address}: {problem}. {KEPT} {advice} Then clear this run.")


def _is_gzip_encoding(address: str, header: str) -> bool:
    codings = [name for name in (part.strip().lower() for part in header.split(",")) if name not in NO_CODINGS]
    if not codings:
        return False
    if len(codings) == 1 and codings[0] in GZIP_CODINGS:
        return True
    raise FileRejected(
        f'{address}: the server sends the file with Content-Encoding "{one_line(header)}", and only gzip is supported. '
        f"{KEPT} Store the file plain or with gzip, then clear this run."
    )


def _decoded(checksum: str, length: int) -> bytes | None:
    """A checksum in base64; none if it is not of this length, as that of an upload in parts, which ends in -PARTS."""
    try:
        value = base64.b64decode(checksum.strip(), validate=True)
    except ValueError:
        return None
    return value if len(value) == length else None


def _encoded(checksum: bytes) -> str:
    return base64.b64encode(checksum).decode()


def _retry_after(value: str | None) -> float | None:
    if value and value.strip().isdecimal():
        return float(value)
    moment = _http_date(value)
    return max((moment - datetime.now(UTC)).total_seconds(), 0) if moment else None


def _http_date(value: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value) if value else None
        # A date in -0000 has no zone, and astimezone would take it for one of this machine.
        return moment and (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
