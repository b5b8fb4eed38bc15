"""Settings of the environment that the embedded run reads or passes on, and the processes that it starts."""

import os
from pathlib import Path

import pytest

from embedded import airflow, processes, server, up
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
    # A setting that admits no proxy at all stays.
    monkeypatch.setenv("no_proxy", "*")
    up.keep_local_traffic_from_proxies()
    assert os.environ["no_proxy"] == "*"


@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [
        ("ALL_PROXY", "socks5h://me:hidden@127.0.0.1:1080", "ALL_PROXY is a SOCKS proxy, .*PySocks"),
        ("https_proxy", "socks5h://me:hidden@127.0.0.1:1080", "HTTPS_PROXY is a SOCKS proxy, .*PySocks"),
        *(
            ("SOURCE_BASE_URL", source, r"SOURCE_BASE_URL does not begin with https://\. ")
            for source in ("http://me:hidden@host/?sig=hidden", "s3://hidden", "hidden")
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_named_and_not_shown(
    setting: str, value: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_BASE_URL", raising=False)
    monkeypatch.setenv(setting, value)
    with pytest.raises(RunError, match=f"^{error}") as failure:
        up.up()
    assert "hidden" not in str(failure.value)


def test_documented_passwords_are_named_with_what_they_mean_and_what_changes_them() -> None:
    said = up.shared_machine(DEFAULT_PASSWORDS)
    assert said == (
        "Every account on this machine can log in with the documented passwords, as superuser too. Change them: "
        "ADMIN_PASSWORD=… DS_USER_PASSWORD=… MLE_USER_PASSWORD=… PIPELINE_PASSWORD=… AIRFLOW_UI_PASSWORD=… make up"
    )
    assert up.shared_machine(dict.fromkeys(DEFAULT_PASSWORDS, "one's own")) == ""


def test_airflow_gets_no_password_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "ADMIN_PASSWORD",
        "AIRFLOW_UI_PASSWORD_FILE",
        "DATABASE_URL",
        "PGPASSWORD",
        "AIRFLOW__CORE__FERNET_KEY",
    ):
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


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # make up leaves them running too
def test_a_start_waits_until_the_process_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Just after its start, its environment reads as empty."""
    too_early, alive = [False] * 3, processes.alive
    monkeypatch.setattr(processes, "alive", lambda pid, run: too_early.pop() if too_early else alive(pid, run))
    try:
        pid = processes.start(["sleep", "600"], os.environ, tmp_path, tmp_path / "log")
        assert too_early == []
        assert alive(pid, tmp_path)
    finally:
        processes.stop(tmp_path)
