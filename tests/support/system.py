"""The whole system, as `make up` starts it, in a copy of the tree."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from support import csv_text
from support.faulty_bucket import Answer, misbehaving
from support.receivers import MailServer, mail_server, webhook

from embedded import processes
from embedded.api import Api
from embedded.postgres import Cluster, free_port
from embedded.sample_data import months_before
from embedded.state import ROOT
from embedded.tree import copy_tree
from services.passwords import DEFAULT_PASSWORDS

SALES_DAG = "sales_load_and_aggregation"
LONGEST_WAIT = 300  # seconds
ENDED = ("success", "failed")  # states of a run
# What `make rotate` replaces, by its name in the state.
KEYS = ("airflow_password", "jwt_secret", "api_secret", "fernet_key")

AIRFLOW_SETTINGS = {
    # An idle scheduler looks ten times a second otherwise, which takes a fifth of a core from other tests.
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    # Seconds until a DAG file that a test adds is found.
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3",
    # The scheduler's log says that it has heard of the end of a task, for which a test waits.
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner=INFO",
}


@dataclass
class System:
    """A started embedded run."""

    folder: Path
    environment: dict[str, str]
    output: str

    @property
    def run(self) -> Path:
        return self.folder / ".embedded"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "state.json").read_text())
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.state['airflow_port']}"

    @property
    def cluster(self) -> Cluster:
        return Cluster(Path(self.state["postgres_home"]), self.state["postgres_port"])

    def address(self, user: str = "admin", database: str = "companydata") -> str:
        state = self.state
        password = state["airflow_password"] if user == "airflow" else state["passwords"][f"{user.upper()}_PASSWORD"]
        return self.cluster.url(database, user, password)

    def connect(self, database: str = "companydata") -> Any:
        return psycopg.connect(self.address(database=database), autocommit=True)

    def api(self) -> Api:
        return Api(self.url, "airflow", self.state["passwords"]["AIRFLOW_UI_PASSWORD"])

    def command(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the system's folder."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def make(self, *arguments: str) -> str:
        """Run make in the system's folder; returns what it printed."""
        done = self.command("/usr/bin/env", "make", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def lend_packages(folder: Path) -> None:
    """Give a copy of the tree a .venv made of links to the one here, or one of its own if it wants other packages."""
    (folder / ".venv").mkdir()
    for entry in (ROOT / ".venv").glob("*"):
        (folder / ".venv" / entry.name).symlink_to(entry)
    # Before REQUESTS_CA_BUNDLE is set for the webhook: pip would trust only that authority.
    subprocess.run(["/usr/bin/env", "make", "--silent", "venv"], cwd=folder, check=True)


@contextmanager
def started(
    folder: Path,
    settings: Mapping[str, str],
    dags: Mapping[str, str] | None = None,
    airflow_settings: Mapping[str, str] | None = None,
) -> Iterator[System]:
    """Copy the tree into a folder, with more DAG files, and start it there on free ports; it is deleted at the end.

    The settings are environment variables of `make up`; airflow_settings are added to services/airflow.env, of which
    the last line of a setting counts.
    """
    copy_tree(folder)
    with (folder / "services/airflow.env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in {**AIRFLOW_SETTINGS, **(airflow_settings or {})}.items())
    for name, text in (dags or {}).items():
        # The checks of the tree, which a documented command runs there, are not for them.
        (folder / "dags" / name).write_text(f"# fmt: off\n# ruff: noqa\n# mypy: ignore-errors\n{text}")
    lend_packages(folder)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "ON_ANOMALY"))},
        "OPERATIONAL_DB_PORT": str(free_port()),
        "AIRFLOW_PORT": str(free_port()),
        **settings,
    }

    system = System(folder, environment, "")
    try:
        system.output = system.make("up")
        yield system
    finally:
        system.make("down")
        assert processes.of_run(folder / ".embedded") == []
        system.make("clean")


def months(count: int) -> list[date]:
    """The first days of the last whole months, oldest first."""
    return months_before(datetime.now(UTC).date(), count)


@dataclass
class FaultySystem(System):
    """A system whose bucket can be told to misbehave, and which posts and mails about failed loads."""

    bucket_folder: Path
    answers: dict[str, list[Answer]]
    passwords: dict[str, str]
    posted: list[dict[str, Any]]
    mail: MailServer


def write_files(folder: Path) -> None:
    for month in months(2):
        file = folder / f"sales/{month}/sales.csv"
        file.parent.mkdir(parents=True)
        file.write_text(csv_text.sales(*(f"{n},0.5,{month},1" for n in range(1_000))))
    (folder / "stores.csv").write_text(csv_text.stores("1,Porto"))
    (folder / "customer_profiles.csv").write_text(csv_text.profiles("1,1,A,x"))
    (folder / "customer_activity.csv").write_text(csv_text.activity("1,2020-01-01,,1,1"))
    (folder / "labels.csv").write_text(csv_text.labels("1,0"))


def documented_dag() -> str:
    """The DAG of another team, as docs/architecture.md shows it."""
    [block] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/architecture.md").read_text(), re.M | re.S)
    return str(block)


# A DAG of somebody whose code should see no secret but its own connection's. It runs until the test has looked.
LOOKING_DAG = """
import json
import os
import time
from pathlib import Path

from airflow.sdk import DAG, task

FOLDER = Path(__file__).parents[1]


@task
def look():
    found = {"its own": dict(os.environ)}
    process = "self"
    while process != "0":
        status = dict(line.split(":\\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        try:
            found[f"of {status['Name']}, {status['Pid']}"] = Path(f"/proc/{process}/environ").read_text()
        except OSError as error:
            found[f"of {status['Name']}, {status['Pid']}"] = f"not readable: {error.strerror}"
        process = status["PPid"]
    (FOLDER / "seen.unfinished").write_text(json.dumps(found))
    (FOLDER / "seen.unfinished").rename(FOLDER / "seen.json")
    print("the task has looked")
    for _ in range(600):
        if (FOLDER / "looked").exists():
            break
        time.sleep(0.5)


with DAG("looking", schedule=None, is_paused_upon_creation=False):
    look()
"""


@contextmanager
def started_faulty(folder: Path, bucket_folder: Path) -> Iterator[FaultySystem]:
    """Start a system on two months of a small bucket, with passwords of its own and a DAG of another team."""
    write_files(bucket_folder)
    # With characters that a URL, JSON, a shell and SQL have to quote.
    passwords = {name: f"""s"e'c@r%41/e t\\-{secrets.token_hex(8)}""" for name in DEFAULT_PASSWORDS}
    in_addresses = {name: f"secret-{secrets.token_hex(8)}" for name in ("SOURCE", "SIGNATURE", "WEBHOOK")}
    with (
        misbehaving(bucket_folder) as (bucket, answers, _),
        webhook(bucket_folder) as (receiver, posted),
        mail_server() as mail,
    ):
        settings = {
            **passwords,
            "SOURCE_BASE_URL": bucket.url.replace("https://", f"https://reader:{in_addresses['SOURCE']}@")
            + f"/?sig={in_addresses['SIGNATURE']}",
            "SOURCE_CA_FILE": str(bucket.ca_file),
            # Nothing answers there: all that the system does is on loopback.
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
            "NO_PROXY": "",
            "no_proxy": "",
            "REQUESTS_CA_BUNDLE": str(receiver.ca_file),
            "NOTIFY_WEBHOOK_URL": f"{receiver.url}/{in_addresses['WEBHOOK']}",
            "NOTIFY_EMAIL": "operator@here",
            "AIRFLOW_CONN_SMTP_DEFAULT": mail.connection,
            "ON_ANOMALY": "ignore",  # months are replaced by much larger and smaller ones
            "SALES_FIRST_MONTH": f"{months(2)[0]:%Y-%m}",
        }
        with started(folder, settings, {"report.py": documented_dag(), "looking.py": LOOKING_DAG}) as running:
            secret = {**passwords, **in_addresses}
            output = running.output
            yield FaultySystem(folder, running.environment, output, bucket_folder, answers, secret, posted, mail)


def status(system: System) -> tuple[int, str]:
    """Exit status and output of make status."""
    done = system.command(sys.executable, "-m", "embedded", "status")
    return done.returncode, done.stdout + done.stderr


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something holds: for so long that no machine is too slow, and no failure waits for ever."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not condition():
        assert time.monotonic() < deadline, f"it does not hold after {LONGEST_WAIT} s"
        time.sleep(0.5)  # each look at Airflow's API costs 25 ms of a core that other tests want


def newest_month(system: System) -> str:
    runs = system.api().runs(SALES_DAG)
    return str(max(runs, key=lambda run: str(run["data_interval_start"]))["dag_run_id"])


def clear(system: System, run: str) -> str:
    """Clear a run that has ended or waits, as a person does in the UI; returns its id."""
    api = system.api()
    # A scheduler that is about to end the run would undo the clearing.
    wait_for(lambda: waits(system, run) or run_state(api, run) in ENDED)
    answer = api.session.post(f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns/{run}/clear", json={"dry_run": False})
    assert answer.ok, answer.text
    return run


def task_instances(system: System, run: str | None = None, dag: str = SALES_DAG) -> list[dict[str, Any]]:
    """The tasks of a run; by default of the newest month's."""
    api, run = system.api(), run or newest_month(system)
    answer = api.session.get(f"{api.url}/api/v2/dags/{dag}/dagRuns/{quote(run)}/taskInstances").json()
    found: list[dict[str, Any]] = answer["task_instances"]
    return found


def waits(system: System, run: str) -> bool:
    """Whether a task of the run waits for its next try, or for a person."""
    return any(task["state"] in ("up_for_retry", "awaiting_input") for task in task_instances(system, run))


def run_state(api: Api, run: str, dag: str = SALES_DAG) -> str:
    answer = api.session.get(f"{api.url}/api/v2/dags/{dag}/dagRuns/{quote(run)}")
    assert answer.ok, answer.text
    return str(answer.json()["state"])


def end_of(api: Api, run: str, dag: str = SALES_DAG) -> str:
    """Wait until a run has ended; its state."""
    wait_for(lambda: run_state(api, run, dag) in ENDED)
    return run_state(api, run, dag)


def staging_sessions(connection: Any) -> list[tuple[int]]:
    query = "select pid from pg_stat_activity where usename = 'pipeline' and application_name like 'load %'"
    found: list[tuple[int]] = connection.execute(query).fetchall()
    return found


def rows(system: System, query: str, database: str = "companydata") -> list[tuple[Any, ...]]:
    """What admin reads."""
    with system.connect(database) as connection:
        found: list[tuple[Any, ...]] = connection.execute(query).fetchall()
        return found


def get(system: System, path: str) -> dict[str, Any]:
    """What Airflow's API answers."""
    api = system.api()
    answer = api.session.get(f"{api.url}/api/v2/{path}")
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def trigger(system: System, dag: str = SALES_DAG, **configuration: Any) -> str:
    """Start a run, as a person does in the UI; returns its id."""
    return system.api().trigger(dag, datetime.now(UTC).isoformat(), configuration)


def delete_run(system: System, run: str, dag: str = SALES_DAG) -> None:
    api = system.api()
    answer = api.session.delete(f"{api.url}/api/v2/dags/{dag}/dagRuns/{quote(run)}")
    assert answer.ok, answer.text
