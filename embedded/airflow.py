"""Airflow in the embedded run: its settings, and what its API says of the runs."""

from __future__ import annotations

import os
import shlex
import time

import requests

from embedded import processes
from embedded.api import Api
from embedded.state import LOGS, ROOT, RUN, RunError, State
from services.passwords import Volume, pgpass, ui_passwords, without_passwords
from services.settings import WORKFLOW_SETTINGS

UI_LOGIN = "airflow"
READY_SECONDS = 180

# The settings of Airflow that the containers have too.
AIRFLOW_ENV = ROOT / "services/airflow.env"

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def read_airflow_env() -> dict[str, str]:
    """The settings of AIRFLOW_ENV as docker compose reads them."""
    lines = [line for line in AIRFLOW_ENV.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def pipeline_settings() -> list[str]:
    """Names of the settings of the workflows, proxies included. Airflow is restarted if one of them has changed."""
    return [*WORKFLOW_SETTINGS, "SOURCE_CA_FILE", *PROXIES, *map(str.lower, PROXIES)]


def airflow_environment(state: State) -> dict[str, str]:
    """The environment of Airflow's processes. Tasks inherit it: passwords and keys are in files, which it names."""
    url = f"http://127.0.0.1:{state.airflow_port}"
    home = RUN / "airflow"
    home.mkdir(exist_ok=True)
    files = Volume(home, os.geteuid())
    port = state.postgres_port
    files.write(
        "pgpass",
        pgpass("127.0.0.1", "airflow", "airflow", state.airflow_password, port)
        + pgpass("127.0.0.1", "companydata", "pipeline", state.passwords["PIPELINE_PASSWORD"], port),
    )
    files.write("ui_passwords.json", ui_passwords(state.passwords))
    keys = {
        "AIRFLOW__CORE__FERNET_KEY_CMD": ("fernet_key", state.fernet_key),
        "AIRFLOW__API__SECRET_KEY_CMD": ("api_secret", state.api_secret),
        "AIRFLOW__API_AUTH__JWT_SECRET_CMD": ("jwt_secret", state.jwt_secret),
    }
    for name, key in keys.values():
        files.write(name, key)
    # Variables that would win over the files: those of libpq, and the keys themselves.
    overriding = {setting.removesuffix("_CMD") for setting in keys}
    inherited = without_passwords(os.environ)
    return {
        **{name: inherited[name] for name in inherited if not name.startswith("PG") and name not in overriding},
        **read_airflow_env(),
        **state.settings,
        **{setting: shlex.join(["cat", str(home / name)]) for setting, (name, _) in keys.items()},
        "PGPASSFILE": str(home / "pgpass"),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_OPERATIONAL_DB": f"postgresql://pipeline@127.0.0.1:{port}/companydata",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "ui_passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://airflow@127.0.0.1:{port}/airflow",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(state.airflow_port),
        "AIRFLOW__API__BASE_URL": url,
        # Where no account but root can listen: no other can answer for the server for logs, which is not started.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "1",
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": "embedded.airflow_logging.LOGGING_CONFIG",
        # Other accounts read no log.
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        # Airflow renames its processes; without this the new names overwrite the mark that finds them.
        "SPT_NOENV": "1",
    }


def ui_url(state: State) -> str:
    """Address of Airflow's UI."""
    return f"http://127.0.0.1:{state.airflow_port}"


def wait_for_api(state: State) -> Api:
    """Log in as soon as the server answers.

    Raises:
        RunError: it did not within three minutes.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        check_services(state)
        try:
            return Api(ui_url(state), UI_LOGIN, state.passwords["AIRFLOW_UI_PASSWORD"])
        except requests.RequestException:
            time.sleep(1)
    raise RunError(f"Airflow's api-server does not answer at {ui_url(state)}. Read {LOGS / 'api-server.log'}.")


def check_services(state: State) -> None:
    """Raise RunError when a process that should run has ended."""
    for name, pid in state.pids.items():
        if not processes.alive(pid, RUN):
            log = LOGS / f"{name}.log"
            raise RunError(f"{name} has ended. The end of {log}:\n{log.read_text(errors='replace')[-2000:]}")
