"""Settings of the environment that the embedded run reads or passes on, and the processes that it starts."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from embedded import airflow, environment, processes, server, up
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


def test_this_machine_is_never_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "bucket.here, .there")
    up.keep_local_traffic_from_proxies()
    once = os.environ["NO_PROXY"]
    assert once.split(",")[:5] == ["bucket.here", ".there", "127.0.0.1", "localhost", "::1"]
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
        ("SOURCE_BASE_URL", "http://me:hidden@host/?sig=hidden", r"SOURCE_BASE_URL does not begin with https://\. "),
        ("SOURCE_BASE_URL", "hidden", r"SOURCE_BASE_URL does not begin with https://\. "),
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


def test_a_wrong_setting_of_the_workflows_is_named_with_its_form_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tests/operation/test_container_settings.py has every setting, which the same function checks."""
    monkeypatch.setenv("SALES_LAST_MONTH", "2026-8")
    monkeypatch.setattr(State, "load", lambda: pytest.fail("it began"))
    with pytest.raises(RunError, match=r'^SALES_LAST_MONTH is "2026-8", which is not a month.*YYYY-MM'):
        up.up()


ENV_FILE = """\
# A comment with a $
PLAIN=as it is # and a comment
WITH_HASH=a#b
export QUOTED='a $b # c'   # comment
DOUBLE="a # b"
EMPTY=
NAME_ALONE
ON_ANOMALY=warn
"""


def test_the_commands_read_an_env_file_as_docker_compose_does_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("PLAIN", "WITH_HASH", "QUOTED", "DOUBLE", "EMPTY", "NAME_ALONE", "ON_ANOMALY")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("ON_ANOMALY", "ask")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    environment.read_env_file()  # none is there
    (tmp_path / ".env").write_text(ENV_FILE)
    if shutil.which("docker"):
        services = {"a": {"image": "a", "environment": dict.fromkeys(names)}}
        (tmp_path / "docker-compose.yml").write_text(json.dumps({"services": services}))
        done = subprocess.run(
            ["/usr/bin/env", "docker", "compose", "config", "--format", "json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        by_compose = json.loads(done.stdout)["services"]["a"]["environment"] if done.returncode == 0 else None
    environment.read_env_file()
    read = {name: os.environ.get(name) for name in names}
    assert read == {
        "PLAIN": "as it is",
        "WITH_HASH": "a#b",
        "QUOTED": "a $b # c",
        "DOUBLE": "a # b",
        "EMPTY": "",
        "NAME_ALONE": None,
        "ON_ANOMALY": "ask",
    }
    if shutil.which("docker") and by_compose:
        assert {name: value and value.replace("$$", "$") for name, value in by_compose.items()} == read


@pytest.mark.parametrize("line", ["A=hid$den", 'A="hid$den"', "A='hid\\\\den'", "A= # hidden", "A='hid'den'"])
def test_a_line_of_an_env_file_that_docker_compose_reads_in_another_way_is_named_and_not_shown(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"\n# settings\n\n{line}\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    with pytest.raises(RunError, match=r"\.env, line 4: .*NAME='value'") as failure:
        environment.read_env_file()
    assert "hid" not in str(failure.value)


def test_documented_passwords_are_named_with_what_they_mean_and_what_changes_them() -> None:
    said = up.shared_machine(DEFAULT_PASSWORDS)
    assert said == (
        "Every account on this machine can log in with the documented passwords, as superuser too. Change them: "
        "ADMIN_PASSWORD=… DS_USER_PASSWORD=… MLE_USER_PASSWORD=… PIPELINE_PASSWORD=… AIRFLOW_UI_PASSWORD=… make up"
    )
    assert up.shared_machine(dict.fromkeys(DEFAULT_PASSWORDS, "the operator's own")) == ""


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
