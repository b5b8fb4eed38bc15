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
from embedded.bucket import make_server

SECRET = "sv=1&sig=s3cr3t%2Fvalue"
PROXY_SETTINGS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the machine's own settings."""
    for name in (*PROXY_SETTINGS, "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_the_path_of_a_file_goes_before_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    for base, url in (
        (" https://host/a/b//\n", "https://host/a/b/stores.csv"),
        ("https://host/?sig=x?y/z", "https://host/stores.csv?sig=x?y/z"),
        ("https://host?sig=x#part", "https://host/stores.csv?sig=x"),
        ("https://user:word@host:8443/a#part?x", "https://user:word@host:8443/a/stores.csv"),
    ):
        monkeypatch.setenv("SOURCE_BASE_URL", base)
        assert settings.source_url("stores.csv") == url


def test_an_address_is_shown_without_its_secrets() -> None:
    for url, shown in (
        ("https://host/a/b.csv", "https://host/a/b.csv"),
        ("https://user@host?sig=x/y@z", "https://host"),
        ("https://us:er:w@rd@host:1/b@c#x", "https://host:1/b@c"),
        ("HTTPS://user:word@[::1]:8443/b", "HTTPS://[::1]:8443/b"),
        ("https://user:wo/rd@host/b", "…"),
        ("user:word@host/b", "…"),
    ):
        assert without_secrets(url) == shown


def test_the_query_is_sent_and_written_nowhere(
    database: Database, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    base = faulty.bucket.url.replace("https://", "https://reader:passw0rd@")
    monkeypatch.setenv("SOURCE_BASE_URL", f"{base}/?{SECRET}")
    seen: list[dict[str, str]] = []
    failures = ""
    for answer in (
        status(503),
        page,
        cut(100),
        stored(b"", Content_Encoding="br"),
        s3_error(403, "AccessDenied", "Signature s3cr3t/value of s3cr3t%2Fvalue"),
        *(redirect(f"{to}s3cr3t/value") for to in ("https://127.0.0.1:1/x ?a b ", "https://[bad?", "http://h/x?")),
    ):
        faulty.answers[FAULTY_PATH] = [answer]
        with pytest.raises((FileRejected, NotInSource, SourceUnavailable)) as failure:
            stage_file(database, "sales", FAULTY_MONTH)
        failures += repr(failure.value)
    faulty.answers[FAULTY_PATH] = [seen_by(seen)]
    stage_file(database, "sales", FAULTY_MONTH)
    # A signature need not cover a header that asks for checksums.
    assert [name for name in seen[0] if name.startswith("x-")] == []
    # Where the file is missing, earlier months are asked for.
    assert {request.rpartition("/sales.csv")[2] for request in faulty.requests} == {f"?{SECRET}"}
    addresses = database.run("select distinct source_url from pipeline.loads")
    assert addresses == [(f"{faulty.bucket.url}/{FAULTY_PATH}",)]
    [(rows,)] = database.run("select string_agg(loads::text, ' ') from pipeline.loads")
    for secret in ("s3cr3t", "reader", "passw0rd"):
        assert secret not in rows + caplog.text + failures


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
    # The scheme may be in capitals.
    monkeypatch.setenv("SOURCE_BASE_URL", faulty.bucket.url.replace("https://", f"HTTPS://{credentials}"))
    seen: list[dict[str, str]] = []
    # The same server by another name, which its certificate has too.
    other = faulty.bucket.url.replace("127.0.0.1", "localhost")
    faulty.answers[f"again/{FAULTY_PATH}"] = [redirect(f"{other}/{FAULTY_PATH}?signature=x", seen)]
    assert faulty.fetch(redirect(f"/again/{FAULTY_PATH}", seen), seen_by(seen)) == CONTENT.encode()
    assert [each.get("authorization") for each in seen] == [sent, sent, None]
    assert [each.get("x-amz-checksum-mode") for each in seen] == ["ENABLED", None, None]


def test_the_webhook_gets_no_login_of_netrc(netrc: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(tmp_path) as (receiver, posted):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(receiver.ca_file))
        message = notifier.Message("failed", "dag", "run", None, None, "reason", "link")
        notifier.post_to_webhook(receiver.url, message)
        notifier.post_to_webhook(receiver.url.replace("https://", "https://a:b@"), message)
    assert [post["authorization"] for post in posted] == [None, "Basic YTpi"]


@pytest.mark.parametrize("setting", ["https_proxy", "ALL_PROXY"])
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


PROXY, RETURNED = "http://me:hidden@PROXY", "the proxy http://PROXY returned"


@pytest.mark.parametrize(
    ("number", "proxy", "error", "message"),
    [
        (
            407,
            PROXY,
            FileRejected,
            f"{RETURNED} 407 Proxy Authentication Required, so .*Set user and password: HTTPS",
        ),
        (403, PROXY, FileRejected, f"{RETURNED} 403 Forbidden, so the source was not reached.*Have the proxy admit"),
        (502, PROXY, SourceUnavailable, f"{RETURNED} 502 Bad Gateway, so the source was not reached.*tries again"),
        (200, "127.0.0.1:PORT", SourceUnavailable, "http://127.0.0.1:PORT does not answer .Connection refused."),
        (200, "http://me:hidden@proxy.invalid:1", SourceUnavailable, "http://proxy.invalid:1 does not answer"),
        (200, "https://PROXY", FileRejected, "https://PROXY does not speak TLS"),
        (200, "socks5h://me:hidden@PROXY", FileRejected, "socks5h://PROXY needs the Python package PySocks"),
        (200, "http://", FileRejected, "the proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    number: int, proxy: str, error: type[Exception], message: str, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forward_proxy(number) as server, socket.socket() as unused:
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
        (trustme.CA().issue_cert(HERE), r"unable to get local issuer certificate.*Set SOURCE_CA_FILE"),
    ],
)
def test_advice_on_a_certificate_fits_its_fault(
    certificate: trustme.LeafCert, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SOURCE_CA_FILE", str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with running(make_server(tmp_path, tmp_path, HERE, 0)) as server:
        url = f"https://{HERE}:{server.server_address[1]}/{FAULTY_PATH}"
        with pytest.raises(FileRejected, match=message), source.open_file(url):
            pass


def test_a_proxy_that_may_have_replaced_the_certificate_and_a_port_without_tls_are_named(
    faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_CA_FILE")
    with forward_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        with pytest.raises(FileRejected, match=f"The proxy http://{proxy.address} may have replaced the certificate"):
            faulty.fetch()
        monkeypatch.delenv("HTTPS_PROXY")
        monkeypatch.setenv("SOURCE_BASE_URL", f"https://{proxy.address}")
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
