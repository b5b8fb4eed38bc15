"""HTTP as the workflows use it: the credentials that are sent, and what an error of the libraries means.

The library requests takes proxies and REQUESTS_CA_BUNDLE from the environment, and that holds. It also takes
credentials from ~/.netrc, and that does not. No body is read here, and none is decompressed: that of a redirect is
dropped, and the reader of another one bounds it.
"""

from __future__ import annotations

import http.client
import io
import logging
import re
import ssl
from typing import Any
from urllib.parse import unquote_plus, urlsplit
from urllib.request import getproxies

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url, get_environ_proxies, select_proxy, urldefragauth
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url
from urllib3.util.ssl_match_hostname import CertificateError

from company_data.errors import shown

MAX_SHOWN_LETTERS = 300

# Values of Content-Encoding that change no byte, although some clients store them.
NO_CODINGS = {"", "identity", "none", "aws-chunked", "utf-8", "utf8", "us-ascii", "ascii", "binary", "8bit"}
GZIP_CODINGS = {"gzip", "x-gzip"}

# What a TLS handshake finds where the server speaks another protocol.
NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
# OpenSSL's X509_V_ERR_…, by what to do.
OUTSIDE_VALIDITY = {9, 10}
UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}

# Not the words of the library: they quote the part that they cannot read, which may be a password.
INVALID_ADDRESS = (
    "it is not a valid address, or redirects to one that is not",
    "Correct SOURCE_BASE_URL, or the server.",
)

TRANSIENT_STATUSES = {408, 425, 429}
# What a server does not support, a retry would find again. Proxies have numbers of their own above 511.
PERMANENT_STATUSES = {501, 505, 506, 508, 510, 511}

MAX_INFORMATIONAL = 10  # answers before the answer

# Below that urllib3 logs the query of addresses, which may be a secret, and headers that it cannot read, unescaped.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class Session(requests.Session):
    """Sends the credentials of the address that it is given, to that server alone, and no others."""

    def __init__(self) -> None:
        """Begin without cookies and credentials."""
        super().__init__()
        self.mount("https://", _Adapter())
        self.mount("http://", _Adapter())

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Take the credentials out of the address, so that no message of the libraries can show them."""
        user, password = get_auth_from_url(request.url)
        request.url = urldefragauth(request.url)
        # Where there are none, requests would look into ~/.netrc.
        request.auth = (user.encode(), password.encode()) if user or password else _unchanged
        return super().prepare_request(request)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Take what is meant for one server out of a request that is redirected to another, without ~/.netrc."""
        # A redirect may carry a signature, which would have to cover this header.
        prepared_request.headers.pop("x-amz-checksum-mode", None)
        if self.should_strip_auth(response.request.url, prepared_request.url):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


class _Adapter(HTTPAdapter):
    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, settings = super().build_connection_pool_key_attributes(request, verify, cert)
        # Has urllib3 compare the names, because its error states those of the certificate, and OpenSSL's does not.
        return host, {**settings, "assert_hostname": host["host"].rstrip(".")}

    def get_connection_with_tls_context(self, *arguments: Any, **named: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **named)
        if pool.ConnectionCls.response_class is not _Response:
            pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"response_class": _Response})
        return pool

    def build_response(self, request: Any, answer: Any) -> requests.Response:
        response = super().build_response(request, answer)
        # urllib3 would decompress without a limit, and fails on thousands of codings. The header stays in the response.
        answer.headers.pop("Content-Encoding", None)
        if response.is_redirect:
            # requests reads the body of a redirect, also one that does not end; this leaves it none.
            answer.close()
        return response


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp = _Stream(self.fp.detach())

    def _read_status(self) -> tuple[str, int, str]:
        """The status of the answer: http.client skips 100 alone and takes any other informational one for it."""
        for _ in range(MAX_INFORMATIONAL):
            version, status, words = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, words
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("there is no answer after the informational ones")


class _Stream(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        # http.client takes a chunk of -1 bytes for all that the server will ever send.
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk has a negative length")
        return super().read(size)


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def is_transient(status: int) -> bool:
    """Whether a later request may be answered otherwise than with this status."""
    return status in TRANSIENT_STATUSES or (status >= 500 and status not in PERMANENT_STATUSES)


def without_secrets(url: str) -> str:
    """The address without user, password, query and fragment, for logs and the ledger."""
    address = re.sub(r"^(\w+:/+)?[^/?#]*@", r"\1", re.split(r"[?#]", url)[0])
    # What is neither host nor port may be a password, in which a slash, ? or # is not escaped.
    return address if re.match(r"\w+://(\[[^/]*\]|[^/:]*)(:\d*)?(/|$)", address) else "…"


def without_queries(text: str, response: requests.Response) -> str:
    """A text of the server without the queries of the addresses that were requested, should it quote them."""
    queries = [urlsplit(each.url).query for each in (*response.history, response)]
    values = [part.partition("=")[2] for query in queries for part in query.split("&")]
    secrets = {secret for text in (*queries, *values) for secret in (text, unquote_plus(text)) if len(secret) > 3}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def explain(error: requests.RequestException) -> tuple[str, str | None]:
    """What happened, and what to do about it; None where a retry may help."""
    causes = _causes(error)
    proxy = _proxy(error)
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        return (
            f"the proxy {proxy} needs the Python package PySocks, which is not installed",
            "Install it, or correct HTTPS_PROXY, ALL_PROXY or NO_PROXY.",
        )
    if isinstance(error, requests.exceptions.InvalidProxyURL):
        return "the proxy in the environment is not an address", "Correct HTTPS_PROXY or ALL_PROXY."
    if isinstance(error, requests.exceptions.InvalidSchema | requests.exceptions.MissingSchema):
        return (
            "the server redirects to what is not https, and only https is read",
            "Correct the redirect, or SOURCE_BASE_URL.",
        )
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "the headers Content-Length contradict each other", "Correct the server."
    if isinstance(error, ValueError):
        return INVALID_ADDRESS
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return reason(error).rstrip("."), "Correct SOURCE_BASE_URL, or the server."
    if isinstance(error, requests.exceptions.ProxyError):
        return _explain_proxy(f"the proxy {proxy}", causes)
    for cause in causes:
        if isinstance(cause, CertificateError):
            return (
                f"the server's certificate is for other hosts ({one_line(str(cause))})",
                "Correct the host in SOURCE_BASE_URL, or use a certificate with its name.",
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _explain_certificate("the server's", cause, proxy)
        if isinstance(cause, ssl.SSLError) and cause.reason in NOT_TLS:
            return "the server does not speak TLS on this port", "Correct the port in SOURCE_BASE_URL, or the server."
        if isinstance(cause, ssl.SSLError) and cause.library in ("PEM", "X509"):
            return (
                f"the file of trusted authorities cannot be used ({reason(error)})",
                "Correct REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, or set SOURCE_CA_FILE.",
            )
    return f"no answer ({reason(error)})", None


def _explain_proxy(name: str, causes: list[BaseException]) -> tuple[str, str | None]:
    for cause in reversed(causes):
        if isinstance(cause, CertificateError):
            return (
                f"the certificate of {name} is for other hosts ({one_line(str(cause))})",
                "Correct HTTPS_PROXY or ALL_PROXY.",
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _explain_certificate(f"{name}'s", cause, None)
        if isinstance(cause, ssl.SSLError) and cause.reason in NOT_TLS:
            return f"{name} does not speak TLS", "Write it with http:// in HTTPS_PROXY or ALL_PROXY."
        if answer := re.search(r"Tunnel connection failed: (\d+)(.*)", str(cause)):
            problem = f"{name} returned {one_line(answer[1] + answer[2])}, so the source was not reached"
            if int(answer[1]) == requests.codes.proxy_authentication_required:
                return problem, "Set user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT."
            if is_transient(int(answer[1])):
                return problem, None
            return problem, "Have the proxy admit the source, or correct HTTPS_PROXY, ALL_PROXY or NO_PROXY."
    return f"{name} does not answer ({reason(causes[0])}), so the source was not reached", None


def _explain_certificate(whose: str, error: ssl.SSLCertVerificationError, proxy: str | None) -> tuple[str, str]:
    problem = f"{whose} certificate does not verify ({error.verify_message})"
    if error.verify_code in OUTSIDE_VALIDITY:
        return problem, "Renew the certificate, or correct the clock of this machine."
    if error.verify_code in UNKNOWN_AUTHORITY:
        replaced = f" The proxy {proxy} may have replaced the certificate." if proxy else ""
        return (
            f"{problem}: no authority that is trusted here has issued it",
            f"Set SOURCE_CA_FILE to a file with the authority to trust, or have the server send all certificates up to "
            f"one that is trusted.{replaced}",
        )
    return problem, "Correct the certificate."


def _proxy(error: requests.RequestException) -> str | None:
    """The proxy of the request that failed, without its user and password."""
    url = error.request.url if error.request is not None else None
    # An error about SOCKS has no request.
    proxy = select_proxy(url or "https://", get_environ_proxies(url) if url else getproxies())
    if not proxy:
        return None
    try:
        address = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except HTTPError:
        return None
    return f"{address.scheme}://{address.netloc}"


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


def reason(error: BaseException) -> str:
    """What happened, without addresses: their queries may be secrets."""
    cause = _causes(error)[-1]
    words = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return one_line(re.sub(r"\S*://\S+|\S*\?.*", "…", words)) or type(cause).__name__


def one_line(text: str, limit: int = MAX_SHOWN_LETTERS) -> str:
    """A text of others for a message, in one line of at most so many characters, without what is invisible."""
    line = shown(" ".join(text.split()), limit)
    return line if len(line) <= limit + 1 else line[:limit] + "…"
