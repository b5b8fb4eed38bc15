"""The way to the source: its address and what is secret in it, credentials, proxies, certificates."""

import base64
import logging
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from conftest import CONTENT, FAULTY_MONTH, FAULTY_PATH, Database, FaultyFiles
from support.faulty_bucket import cut, page, redirect, s3_error, seen_by, status, stored
from support.proxies import forward_proxy
from support.receivers import running, webhook
from support.steps import stage_file

from company_data import notifier, settings, source
from company_data.errors import FileRejected, NotInSource, SourceUnavailable
from company_data.http_client import without_secrets
from embedded.bucket import make_server, serve

SECRET = "sv=1&sig=s3cr3t%2Fvalue"
PROXY_SETTINGS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the machine's own settings."""
    for name in (*PROXY_SETTINGS, "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://host", "https://host/stores.csv"),
        (" https://host/a/b//\n", "https://host/a/b/stores.csv"),
        ("https://host/a?sig=x/y", "https://host/a/stores.csv?sig=x/y"),
        ("https://host/?sig=x?y", "https://host/stores.csv?sig=x?y"),
        ("https://host?sig=x#part", "https://host/stores.csv?sig=x"),
        ("https://host/a#part?x", "https://host/a/stores.csv"),
        ("https://user:word@host:8443/a", "https://user:word@host:8443/a/stores.csv"),
    ],
)
def test_the_path_of_a_file_goes_before_the_query(base: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_BASE_URL", base)
    assert settings.source_url("stores.csv") == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.csv", "https://host/a/b.csv"),
        ("https://user:word@host/b.csv?sig=x", "https://host/b.csv"),
        ("https://user@host?sig=x/y@z", "https://host"),
        ("https://us:er:w@rd@host:1/b@c#x", "https://host:1/b@c"),
        ("https://user:word@[::1]:8443/b", "https://[::1]:8443/b"),
        ("https://user:wo/rd@host/b", "…"),
        ("user:word@host/b", "…"),
        ("user:wo/rd@host/b", "…"),
        ("HTTPS://user:word@host/b", "HTTPS://host/b"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    "answer",
    [
        None,
        status(503),
        page,
        cut(100),
        stored(b"", Content_Encoding="br"),
        s3_error(403, "AccessDenied", "Signature s3cr3t/value of s3cr3t%2Fvalue"),
        redirect("https://127.0.0.1:1/x?s3cr3t/value"),
        redirect("https://127.0.0.1:1/x ?a b s3cr3t/value"),
        redirect("https://[bad?s3cr3t/value"),
        redirect("http://127.0.0.1:1/x?s3cr3t/value"),
    ],
)
def test_the_query_is_sent_and_written_nowhere(
    answer: object,
    database: Database,
    faulty: FaultyFiles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    base = faulty.bucket.url.replace("https://", "https://reader:passw0rd@")
    monkeypatch.setenv("SOURCE_BASE_URL", f"{base}/?{SECRET}")
    faulty.answers[FAULTY_PATH] = [answer] if answer else []  # type: ignore[list-item]
    failure = ""
    try:
        stage_file(database, "sales", FAULTY_MONTH)
    except (FileRejected, NotInSource, SourceUnavailable) as error:
        failure = repr(error)
    assert bool(failure) == bool(answer)
    # Where the file is missing, earlier months are asked for.
    assert faulty.requests[0] == f"/{FAULTY_PATH}?{SECRET}"
    assert all(request.endswith(f"?{SECRET}") for request in faulty.requests)
    [(address, row)] = database.run("select source_url, loads::text from pipeline.loads")
    assert address == f"{faulty.bucket.url}/{FAULTY_PATH}"
    for secret in ("s3cr3t", "reader", "passw0rd"):
        assert secret not in row + caplog.text + failure


@pytest.mark.parametrize("base", [*(f"https://user:pa{each}ss@host" for each in "/#?"), "user:pa/ss@host"])
def test_a_password_that_breaks_the_address_is_not_shown(
    base: str, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_BASE_URL", base)
    with pytest.raises(FileRejected) as failure:
        faulty.fetch()
    assert not re.search("pa(?!rse)|ss@", str(failure.value))


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that requests would send to every server."""
    (tmp_path / "netrc").write_text("default login somebody password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


LOGIN = f"Basic {base64.b64encode('reader:pässword'.encode()).decode()}"


@pytest.mark.parametrize(("credentials", "sent"), [("", None), ("reader:p%C3%A4ssword@", LOGIN)])
def test_the_credentials_of_the_address_are_sent_to_its_host_alone_and_those_of_netrc_never(
    credentials: str, sent: str | None, netrc: None, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_BASE_URL", faulty.bucket.url.replace("https://", f"https://{credentials}"))
    seen: list[dict[str, str]] = []
    # The same server by another name, which its certificate has too.
    other = faulty.bucket.url.replace("127.0.0.1", "localhost")
    faulty.answers[f"again/{FAULTY_PATH}"] = [redirect(f"{other}/{FAULTY_PATH}?signature=x", seen)]
    assert faulty.fetch(redirect(f"/again/{FAULTY_PATH}", seen), seen_by(seen)) == CONTENT.encode()
    assert [each.get("authorization") for each in seen] == [sent, sent, None]
    assert [each.get("x-amz-checksum-mode") for each in seen] == ["ENABLED", None, None]


def test_a_signature_in_the_address_need_not_cover_a_header_for_checksums(
    faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The scheme may be in capitals.
    monkeypatch.setenv("SOURCE_BASE_URL", f"{faulty.bucket.url.replace('https', 'HTTPS')}?{SECRET}")
    seen: list[dict[str, str]] = []
    assert faulty.fetch(seen_by(seen)) == CONTENT.encode()
    assert [name for name in seen[0] if name.startswith("x-")] == []


def test_the_webhook_gets_no_login_of_netrc(netrc: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(tmp_path) as (receiver, posted):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(receiver.ca_file))
        message = notifier.Message("failed", "dag", "run", None, None, "reason", "link")
        notifier.post_to_webhook(receiver.url, message)
        notifier.post_to_webhook(receiver.url.replace("https://", "https://a:b@"), message)
    assert [post["authorization"] for post in posted] == [None, "Basic YTpi"]


def test_a_redirect_to_another_server_is_followed(
    faulty: FaultyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path / "bucket") as other:
        both = tmp_path / "both.pem"
        both.write_text(faulty.bucket.ca_file.read_text() + other.ca_file.read_text())
        monkeypatch.setenv("SOURCE_CA_FILE", str(both))
        to = f"{other.url.replace('127.0.0.1', 'localhost')}/{FAULTY_PATH}"
        assert faulty.fetch(redirect(to)) == CONTENT.encode()


@pytest.mark.parametrize("setting", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used(setting: str, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    host = faulty.bucket.url.removeprefix("https://")
    with forward_proxy() as proxy:
        monkeypatch.setenv(setting, f"http://me:hidden@{proxy.address}")
        assert faulty.fetch() == CONTENT.encode()
        assert proxy.tunnels == [host]
        assert proxy.credentials == [f"Basic {base64.b64encode(b'me:hidden').decode()}"]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert faulty.fetch() == CONTENT.encode()
        assert proxy.tunnels == [host]


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (407, FileRejected, "returned 407 Proxy Authentication Required, so .*Set user and password: HTTPS_PROXY="),
        (403, FileRejected, "returned 403 Forbidden, so the source was not reached.*Have the proxy admit the source"),
        (502, SourceUnavailable, "returned 502 Bad Gateway, so the source was not reached.*tries again by itself"),
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_named(
    number: int, error: type[Exception], message: str, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forward_proxy(number) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hidden@{proxy.address}")
        with pytest.raises(error, match=f"the proxy http://{proxy.address} {message}") as failure:
            faulty.fetch()
    assert "hidden" not in str(failure.value)
    assert faulty.requests == []


@pytest.mark.parametrize(
    ("proxy", "error", "message"),
    [
        ("http://127.0.0.1:PORT", SourceUnavailable, "http://127.0.0.1:PORT does not answer .Connection refused."),
        ("127.0.0.1:PORT", SourceUnavailable, "http://127.0.0.1:PORT does not answer .Connection refused."),
        ("http://me:hidden@proxy.invalid:1", SourceUnavailable, "http://proxy.invalid:1 does not answer"),
        ("https://PROXY", FileRejected, "https://PROXY does not speak TLS"),
        ("socks5h://me:hidden@PROXY", FileRejected, "socks5h://PROXY needs the Python package PySocks"),
        ("http://", FileRejected, "the proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    proxy: str, error: type[Exception], message: str, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forward_proxy() as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))

        def filled(text: str) -> str:
            return text.replace("PORT", str(unused.getsockname()[1])).replace("PROXY", server.address)

        monkeypatch.setenv("ALL_PROXY", filled(proxy))
        with pytest.raises(error, match=filled(message)) as failure:
            faulty.fetch()
    assert "hidden" not in str(failure.value)
    assert faulty.requests == []


AUTHORITY, NOW, DAY = trustme.CA(), datetime.now(UTC), timedelta(days=1)
HERE = "127.0.0.1"


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        (
            AUTHORITY.issue_cert("bucket.example", "*.other.example"),
            r"for other hosts \(.*'127.0.0.1' doesn't match either of 'bucket.example', '\*.other.example'.*Correct",
        ),
        (
            AUTHORITY.issue_cert(HERE, not_before=NOW - 2 * DAY, not_after=NOW - DAY),
            r"certificate has expired.*Renew the certificate, or correct the clock",
        ),
        (
            AUTHORITY.issue_cert(HERE, not_before=NOW + DAY, not_after=NOW + 2 * DAY),
            r"certificate is not yet valid.*Renew the certificate, or correct the clock",
        ),
        (trustme.CA(), r"self-signed certificate.*no authority that is trusted here.*Set SOURCE_CA_FILE"),
        (trustme.CA().issue_cert(HERE), r"unable to get local issuer certificate.*Set SOURCE_CA_FILE"),
    ],
)
def test_advice_on_a_certificate_fits_its_fault(
    certificate: trustme.LeafCert | trustme.CA, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SOURCE_CA_FILE", str(tmp_path / "ca.pem"))
    blobs = certificate.cert_chain_pems if isinstance(certificate, trustme.LeafCert) else [certificate.cert_pem]
    pem = b"".join(blob.bytes() for blob in (certificate.private_key_pem, *blobs))
    (tmp_path / "server.pem").write_bytes(pem)
    with running(make_server(tmp_path, tmp_path, HERE, 0)) as server:
        url = f"https://{HERE}:{server.server_address[1]}/{FAULTY_PATH}"
        with pytest.raises(FileRejected, match=message), source.open_file(url):
            pass


def test_a_certificate_that_a_proxy_may_have_replaced_names_the_proxy(
    faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_CA_FILE")
    with forward_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        with pytest.raises(FileRejected, match=f"The proxy http://{proxy.address} may have replaced the certificate"):
            faulty.fetch()


def test_a_port_without_tls_is_named(faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    with forward_proxy() as server:
        monkeypatch.setenv("SOURCE_BASE_URL", f"https://{server.address}")
        with pytest.raises(FileRejected, match=r"does not speak TLS on this port.*Correct the port"):
            faulty.fetch()


def test_an_authority_file_that_cannot_be_used_is_named(faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = faulty.folder / "empty.pem"
    empty.touch()
    for setting, file, message in (
        ("SOURCE_CA_FILE", "/nowhere.pem", r"SOURCE_CA_FILE is /nowhere.pem.*No such file or directory"),
        ("SOURCE_CA_FILE", str(empty), r"SOURCE_CA_FILE is .*cannot be used"),
        ("REQUESTS_CA_BUNDLE", str(empty), r"authorities cannot be used .*Correct REQUESTS_CA_BUNDLE"),
        ("REQUESTS_CA_BUNDLE", "/nowhere.pem", r"invalid path: /nowhere.pem.*Correct that file"),
    ):
        monkeypatch.delenv("SOURCE_CA_FILE", raising=False)
        monkeypatch.setenv(setting, file)
        with pytest.raises(FileRejected, match=message):
            faulty.fetch()
