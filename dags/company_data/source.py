"""Reads one file of the bucket over HTTPS, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import re
import ssl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Protocol, cast

import requests
import urllib3

from company_data.errors import FileNotYetAvailable, FileRejected, SourceUnavailable
from company_data.settings import source_ca_file

CHUNK_BYTES = 1 << 18
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
MAX_REDIRECTS = 5

TRANSIENT_STATUSES = {408, 425, 429}
KEPT = "Nothing was loaded, and what was published before stays."
RETRIED = "The task tries again by itself. When it has given up, check the source and clear this run."


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Download:
    """A file that is being read.

    Attributes:
        address: where it is, without credentials.
        etag: the server's ETag, without quotes.
        last_modified: when the server says that the file was changed.
        bytes: length of the text read so far, decompressed if it is sent compressed.
        sha256: hash of that text.
    """

    def __init__(self, address: str, response: requests.Response) -> None:
        """Take over an answer whose body has not been read.

        Raises:
            FileRejected: the body is compressed in an unknown way, or its end is not distinguishable from a lost connection.
        """
        headers = response.headers
        self.address = address
        self.etag = headers.get("ETag", "").removeprefix("W/").strip('"') or None
        self.last_modified = _http_date(headers.get("Last-Modified"))
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self._response = response
        self._is_gzip = _is_gzip_encoding(address, headers.get("Content-Encoding", ""))
        is_chunked = headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
        if response.raw.length_remaining is None and not is_chunked:
            raise FileRejected(
                f"{address}: the server neither states the length of the file nor sends it in chunks, so a lost connection "
                f"would look like the end of the file. {KEPT} Serve it with a Content-Length."
            )
        # The ETag of a plain upload to S3 is its MD5. Uploads in parts have a dash in it, and with keys of KMS or
        # of the customer it is no hash of the content (S3 API reference, "Object", ETag).
        is_digest = (
            re.fullmatch(r'"[0-9a-f]{32}"', headers.get("ETag", "")) is not None
            and not headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
            and "x-amz-server-side-encryption-customer-algorithm" not in headers
        )
        self._sent_md5 = hashlib.md5(usedforsecurity=False) if is_digest else None
        self._text_md5 = hashlib.md5(usedforsecurity=False) if is_digest and self._is_gzip else None

    def chunks(self) -> Iterator[bytes]:
        """The text of the file, piece by piece.

        Raises:
            SourceUnavailable: the connection broke, stalled or ended early, or the text does not match the ETag.
        """
        body: _Readable = gzip.GzipFile(fileobj=cast(IO[bytes], self)) if self._is_gzip else self
        try:
            while chunk := body.read(CHUNK_BYTES):
                self.bytes += len(chunk)
                self.sha256.update(chunk)
                if self._text_md5:
                    self._text_md5.update(chunk)
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError, EOFError, zlib.error) as error:
            raise SourceUnavailable(
                f"{self.address}: the download stopped after {self.bytes:,} bytes ({_reason(error)}). {KEPT} {RETRIED}"
            ) from None
        if self._sent_md5:
            found = {digest.hexdigest() for digest in (self._sent_md5, self._text_md5) if digest}
            if self.etag not in found:
                raise SourceUnavailable(
                    f"{self.address}: the MD5 of the received bytes ({self._sent_md5.hexdigest()}) is not the ETag "
                    f"({self.etag}), so they were changed in transit. {KEPT} {RETRIED}"
                )

    def read(self, size: int, /) -> bytes:
        """Bytes as they are sent: the input of gzip, and what the ETag describes."""
        data: bytes = self._response.raw.read(size)
        if self._sent_md5:
            self._sent_md5.update(data)
        return data


@contextmanager
def open_file(url: str, late_until: datetime | None = None) -> Iterator[Download]:
    """Start a download, over HTTPS only, also after redirects. The authorities are those of SOURCE_CA_FILE, if it is set.

    Args:
        url: the file's address.
        late_until: moment until which a missing file may still come.

    Raises:
        FileRejected: the address, its certificate or the answer is such that a retry would find the same.
        FileNotYetAvailable: 404, and the file may be late.
        SourceUnavailable: the network or the server failed.
    """
    address = without_credentials(url)
    if not url.startswith("https://"):
        raise FileRejected(f"{address}: only https is read, and this is not. {KEPT} Correct SOURCE_BASE_URL.")
    authorities = source_ca_file()
    if authorities:
        _require_authorities(address, authorities)
    with requests.Session() as session:
        session.adapters.pop("http://")
        session.max_redirects = MAX_REDIRECTS
        session.headers["Accept-Encoding"] = "gzip"
        try:
            # Given with the request: REQUESTS_CA_BUNDLE overrides Session.verify.
            verify = str(authorities) if authorities else True
            response = session.get(url, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), verify=verify)
        except (requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
            raise FileRejected(
                f"{address}: the server redirects to what is not https, and only https is read. {KEPT} "
                f"Correct the redirect, or SOURCE_BASE_URL."
            ) from None
        except (ValueError, requests.exceptions.TooManyRedirects) as error:  # ValueError: not an address
            raise FileRejected(f"{address}: {_reason(error)}. {KEPT} Correct SOURCE_BASE_URL, or the server.") from None
        except requests.RequestException as error:
            for cause in _causes(error):
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise FileRejected(
                        f"{address}: the server's certificate does not verify ({cause.verify_message}). {KEPT} Renew "
                        f"the certificate, or set SOURCE_CA_FILE to a file with the authority to trust."
                    ) from None
            raise SourceUnavailable(f"{address}: no answer ({_reason(error)}). {KEPT} {RETRIED}") from None
        except OSError as error:  # REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, which requests reads without SOURCE_CA_FILE
            raise FileRejected(f"{address}: {error}. {KEPT} Correct that file, or set SOURCE_CA_FILE.") from None
        with response:
            _require_success(address, response, late_until)
            yield Download(address, response)


def _require_authorities(address: str, file: Path) -> None:
    """Raise FileRejected if SOURCE_CA_FILE cannot be read or holds no certificate."""
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise FileRejected(
            f"{address}: SOURCE_CA_FILE is {file}, which cannot be used ({_reason(error)}), so the server's certificate "
            f"cannot be verified. {KEPT} Correct SOURCE_CA_FILE: it names a file of certificates in PEM format."
        ) from None


def without_credentials(url: str) -> str:
    """The address without a user's name and password, for logs and the ledger."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def _require_success(address: str, response: requests.Response, late_until: datetime | None) -> None:
    status = f"{response.status_code} {response.reason or ''}".strip()
    if response.status_code == requests.codes.ok:
        return
    if response.status_code in TRANSIENT_STATUSES or response.status_code >= requests.codes.server_error:
        raise SourceUnavailable(
            f"{address}: the server answers {status}. {KEPT} {RETRIED}",
            _retry_after(response.headers.get("Retry-After")),
        )
    if response.status_code == requests.codes.not_found:
        if late_until and datetime.now(UTC) < late_until:
            raise FileNotYetAvailable(
                f"{address}: the server answers {status}. {KEPT} The month has just ended and the file may be late: "
                f"the task requests it again until {late_until:%Y-%m-%d %H:%M} UTC.",
                late_until,
            )
        hint = "Upload the file, or correct SOURCE_BASE_URL or the months that are scheduled; then clear this run."
    elif response.status_code == requests.codes.forbidden:
        hint = (
            "Make it public, and check that it exists: S3 also answers 403 for a missing file of a bucket "
            "that may not be listed. Then clear this run."
        )
    else:
        hint = "Correct the server or SOURCE_BASE_URL, then clear this run."
    raise FileRejected(f"{address}: the server answers {status}. {KEPT} {hint}")


def _is_gzip_encoding(address: str, encoding: str) -> bool:
    name = encoding.strip().lower()
    if name not in ("", "identity", "gzip", "x-gzip"):
        raise FileRejected(
            f'{address}: the server sends the file with Content-Encoding "{encoding}", and only gzip is supported. '
            f"{KEPT} Store the file plain or with gzip, then clear this run."
        )
    return name.endswith("gzip")


def _retry_after(value: str | None) -> float | None:
    if value and value.strip().isdecimal():
        return float(value)
    moment = _http_date(value)
    return max((moment - datetime.now(UTC)).total_seconds(), 0) if moment else None


def _http_date(value: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(value).astimezone(UTC) if value else None
    except ValueError:
        return None


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, innermost last."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and cause not in found:
            found.append(cause)
            waiting += [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
    return found


def _reason(error: BaseException) -> str:
    """What happened, without the address: after a redirect that may hold a signature."""
    cause = _causes(error)[-1]
    words = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return re.sub(r"\S*://\S+|\S*[?&]\S+=\S+", "…", words) or type(cause).__name__
