"""The service that checks the settings of the containers, and what their compose file says of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from support import forked

from embedded.airflow import read_airflow_env
from services.settings import WORKFLOW_SETTINGS

pytestmark = pytest.mark.slow

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
FILES = [ROOT / "docker-compose.yml", *ROOT.glob("deploy/*/docker-compose.yml")]

# setting: a wrong value, and the form that the message names.
WRONG = {
    "SOURCE_BASE_URL": ("http://bucket:secret@host", "https://HOST/FOLDER"),
    "SOURCE_MAX_BYTES": ("10 GB", "Write it as 10000000000"),
    "SALES_FIRST_MONTH": ("2025-13", "YYYY-MM"),
    "SALES_DEADLINE_HOURS": ("a day", "Write it as 24"),
    "ON_ANOMALY": ("maybe", "protect, ask, warn, ignore"),
    "FEATURE_HISTORY_KEEP_DAYS": ("0", "Write it as 730"),
    "FEATURE_STORE_MAX_LOSS": ("101", "from 0 to 100"),
    "NOTIFY_EMAIL": ("nobody", "one@example.org,two@example.org"),
    "NOTIFY_WEBHOOK_URL": ("chat.example.org/secret", "neither https:// nor http://"),
    "AIRFLOW_CONN_SMTP_DEFAULT": ("user:secret@host", "smtp://USER:PASSWORD@HOST:587"),
}


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for volume in COMPOSE["services"]["settings"]["volumes"]:
        if isinstance(volume, str):
            (tmp_path / "volumes" / Path(volume.split(":")[1]).name).mkdir(parents=True)
    return tmp_path / "volumes"


def check(volumes: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {*WORKFLOW_SETTINGS, "SOURCE_CA_FILE"}}
    return forked.run("services.settings", "--folder", str(volumes), environment={**kept, **settings})


def test_each_wrong_setting_is_named_with_its_form_and_nothing_is_written(volumes: Path, tmp_path: Path) -> None:
    assert {*WRONG, "SALES_LAST_MONTH"} == set(WORKFLOW_SETTINGS)
    (tmp_path / "ca.pem").write_text("not a certificate")
    wrong = {name: value for name, (value, _) in WRONG.items()}
    done = check(volumes, SOURCE_CA_FILE=str(tmp_path / "ca.pem"), DS_USER_PASSWORD="two\nlines", **wrong)
    assert done.returncode == 1
    first, *lines = done.stderr.splitlines()
    assert first == "error: the settings are wrong, and nothing was changed."
    assert len(lines) == len(WRONG) + 2
    for name, form in [*((name, form) for name, (_, form) in WRONG.items()), ("SOURCE_CA_FILE", "PEM file")]:
        [line] = [line for line in lines if line.startswith(name)]
        assert form in line
    assert "secret" not in done.stderr
    assert not [file for file in volumes.rglob("*") if file.is_file()]

    done = check(volumes, SALES_FIRST_MONTH="2025-02", SALES_LAST_MONTH="2025-01")
    assert "SALES_LAST_MONTH (2025-01) is before SALES_FIRST_MONTH (2025-02)" in done.stderr


def test_airflow_reads_the_settings_that_were_checked(volumes: Path) -> None:
    done = check(volumes, SALES_FIRST_MONTH="2024-05", ON_ANOMALY="ask", SOURCE_MAX_BYTES="")
    assert (done.returncode, done.stdout) == (0, "all settings are right\n"), done.stderr
    file = volumes / "airflow/settings.json"
    assert json.loads(file.read_text()) == {"SALES_FIRST_MONTH": "2024-05", "ON_ANOMALY": "ask"}
    code = "from company_data import settings; print(settings.first_sales_month().date(), settings.on_anomaly())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SETTINGS_FILE": str(file), "PYTHONPATH": str(ROOT / "dags")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("2024-05-01 ask\n"), done.stderr


def test_no_service_of_airflow_has_a_setting_of_the_workflows_in_its_environment() -> None:
    named = {name for name in read_airflow_env() if name in WORKFLOW_SETTINGS}
    assert not named
    for name, service in COMPOSE["services"].items():
        if name.startswith("airflow-") and name not in ("airflow-db", "airflow-db-clean"):
            assert service["env_file"] == ["services/airflow.env"]
            assert not set(service["environment"]) & {*WORKFLOW_SETTINGS, "SOURCE_CA_FILE"}


def test_no_image_that_is_built_is_that_of_another_project_nor_one_that_the_databases_depend_on() -> None:
    services = COMPOSE["services"]
    built = {services[name]["image"]: name for name in services if "build" in services[name]}
    project = "${COMPOSE_PROJECT_NAME}"
    assert built == {project: "migrate-operational-db", f"{project}-settings": "settings"}
    for database in ("operational-db", "airflow-db"):
        assert set(services[database]["depends_on"]) == {"settings"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = re.search(r"AS settings\n(.*?)\n\n", dockerfile, re.S)
    assert copied
    assert re.findall(r"(\S+/\S+\.\w+)(?= )", copied[1]) == [
        "services/__init__.py",
        "services/passwords.py",
        "services/settings.py",
        "services/workflows.env",
        "dags/company_data/__init__.py",
        "dags/company_data/errors.py",
        "dags/company_data/months.py",
        "dags/company_data/retries.py",
        "dags/company_data/settings.py",
    ]


def binds(service: dict[str, Any]) -> list[dict[str, Any]]:
    return [volume for volume in service.get("volumes", []) if isinstance(volume, dict)]


def test_a_mistyped_path_makes_no_folder() -> None:
    found = 0
    for file in FILES:
        for service in yaml.safe_load(file.read_text())["services"].values():
            for volume in service.get("volumes", []):
                assert not str(volume).startswith("${"), volume
            for bind in binds(service):
                found += 1
                # The folder of the backups is made where it is missing.
                assert bind["target"] == "/backups" or bind["bind"] == {"create_host_path": False}, bind
    assert found > 10
