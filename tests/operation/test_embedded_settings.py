"""Settings of the environment that the embedded run reads or passes on."""

import os
from pathlib import Path

import pytest

from embedded import airflow, server, up
from embedded.postgres import Cluster
from embedded.state import RunError, State
from services.passwords import DEFAULT_PASSWORDS

PROXY_SETTINGS = [*airflow.PROXIES, *map(str.lower, airflow.PROXIES)]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the machine's own settings, and none that is left behind."""
    for name in PROXY_SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("setting", "value", "first"),
    [
        ("NO_PROXY", "", []),
        ("NO_PROXY", "bucket.here, .there", ["bucket.here", ".there"]),
        ("no_proxy", "localhost", ["localhost"]),
    ],
)
def test_this_machine_is_never_reached_through_a_proxy(
    setting: str, value: str, first: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, value)
    up.keep_local_traffic_from_proxies()
    once = os.environ["NO_PROXY"]
    hosts = once.split(",")
    assert hosts[: len(first)] == first
    assert {"127.0.0.1", "localhost", "::1"} <= set(hosts)
    assert len(set(hosts)) == len(hosts)
    up.keep_local_traffic_from_proxies()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == once


def test_a_setting_that_admits_no_proxy_at_all_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    up.keep_local_traffic_from_proxies()
    assert os.environ["NO_PROXY"] == "*"


@pytest.mark.parametrize("setting", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_without_its_packages_is_named(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setting, "socks5h://me:hidden@127.0.0.1:1080")
    with pytest.raises(RunError, match=f"^{setting.upper()} is a SOCKS proxy, .*PySocks") as failure:
        up.keep_local_traffic_from_proxies()
    assert "hidden" not in str(failure.value)


@pytest.mark.parametrize("source", ["http://me:hidden@host/?sig=hidden", "s3://hidden", "hidden"])
def test_an_address_of_the_source_that_is_not_https_is_not_shown(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_BASE_URL", source)
    with pytest.raises(RunError, match=r"^SOURCE_BASE_URL does not begin with https://\. ") as failure:
        up.up()
    assert "hidden" not in str(failure.value)


def test_documented_passwords_are_named_with_what_they_mean_and_what_changes_them() -> None:
    said = up.shared_machine(DEFAULT_PASSWORDS)
    assert said == (
        "Every account on this machine can log in with the documented passwords, as superuser too. Change them: "
        "ADMIN_PASSWORD=… DS_USER_PASSWORD=… MLE_USER_PASSWORD=… PIPELINE_PASSWORD=… AIRFLOW_UI_PASSWORD=… make up"
    )
    assert up.shared_machine(dict.fromkeys(DEFAULT_PASSWORDS, "one's own")) == ""


@pytest.mark.parametrize(
    "name",
    ["ADMIN_PASSWORD", "AIRFLOW_UI_PASSWORD_FILE", "DATABASE_URL", "PGPASSWORD", "AIRFLOW__CORE__FERNET_KEY"],
)
def test_airflow_gets_no_password_of_the_environment(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "hidden")
    monkeypatch.setattr(airflow, "RUN", tmp_path)
    passed_on = airflow.airflow_environment(State(passwords=DEFAULT_PASSWORDS))
    assert "hidden" not in passed_on.values()
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "airflow").iterdir()} == {0o600}


def test_programs_that_are_too_old_are_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_BIN", str(cluster.programs))
    server.reject_old_programs()
    monkeypatch.setattr(server, "OLDEST_SERVER", 99)
    with pytest.raises(RunError, match=r"^POSTGRES_BIN has initdb \(PostgreSQL\) \d.* PostgreSQL 99 or later"):
        server.reject_old_programs()
