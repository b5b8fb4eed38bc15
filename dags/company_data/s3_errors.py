"""What S3, and servers that imitate it, write into the body of an error, and what follows from it.

The codes are those of the S3 API reference, "Error responses".
"""

from __future__ import annotations

import html
import re
import zlib

import requests
import urllib3

from company_data.http_client import GZIP_CODINGS, NO_CODINGS, one_line

MAX_BODY_BYTES = 1 << 14

# Whatever the status is, a retry may help.
TRANSIENT = {"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}

CREDENTIALS = "Replace the credentials or the signature in SOURCE_BASE_URL; a public file needs none."
DISABLED = "Have the owner of the bucket enable access to it."

# Whatever the status is, a retry would find the same: what to do. For all other codes the status decides.
ADVICE = {
    "AccountProblem": DISABLED,
    "AllAccessDisabled": DISABLED,
    "ExpiredToken": CREDENTIALS,
    "InvalidAccessKeyId": CREDENTIALS,
    "InvalidBucketName": "Correct the name of the bucket in SOURCE_BASE_URL.",
    "InvalidObjectState": "The file is in an archive: have it restored.",
    "InvalidToken": CREDENTIALS,
    "NoSuchBucket": "Correct the name of the bucket in SOURCE_BASE_URL.",
    "PermanentRedirect": "Use the endpoint of the bucket's region in SOURCE_BASE_URL.",
    "RequestTimeTooSkewed": "Correct the clock of this machine.",
    "SignatureDoesNotMatch": CREDENTIALS,
}


def read_error(response: requests.Response) -> tuple[str | None, str]:
    """Read the beginning of an error's body, as XML of a known form and not as a document: it has no entities to expand.

    It is decompressed up to the same length.

    Returns:
        The code, if the body is an error of S3; and code, message and endpoint as a text for a message, or nothing.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    try:
        data: bytes = response.raw.read(MAX_BODY_BYTES)
        if coding in GZIP_CODINGS:
            data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_BODY_BYTES)
        elif coding not in NO_CODINGS:
            data = b""
    except (urllib3.exceptions.HTTPError, OSError, zlib.error):
        return None, ""
    body = data.decode(errors="replace")
    if not re.search(r"<Error\b", body):
        return None, ""
    found = dict(re.findall(r"<(Code|Message|Endpoint)>([^<]*)</\1>", body))
    texts = {name: one_line(html.unescape(text).strip()) for name, text in found.items()}
    parts = [texts.get("Code"), texts.get("Message"), texts.get("Endpoint") and f"endpoint {texts['Endpoint']}"]
    said = ": ".join(part for part in parts if part)
    return texts.get("Code"), f" ({said})" if said else ""
