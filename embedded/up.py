"""The embedded run: `python -m local up`, `status`, `backup`, `down` and more, called by the Makefile."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import getproxies

import psycopg
import requests
from cryptography.fernet import Fernet
from psycopg import sql

from local import processes
from local.airflow import Api
from local.bucket import write_certificates
from local.postgres import ADMIN, Cluster, ClusterError, free_port
from local.sample_data import months_before, write_bucket
from local.secrets import (
    DEFAULT_PASSWORDS,
    Volume,
    alter_roles,
    passwords_of,
    pgpass,
    ui_passwords,
    without_passwords,
)
from local.status import GOOD_STATES, Status, months_due, print_status, read_status

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / ".embedded"
LOGS = RUN / "logs"
BACKUPS = ROOT / "backups"

UI_LOGIN = "airflow"
SAMPLE_MONTHS = 12

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

READY_SECONDS = 180
STALL_SECONDS = 900
HEARTBEAT_SECONDS = 15

OLDEST_SERVER = 17

# Readers cannot stop the others by these: docker-compose.yml has the same. More connections are reserved than there,
# because Airflow's services use this server too: four with at most 15 each, and eight tasks with at most two each,
# seldom at the same time.
SERVER_SETTINGS = {
    "authentication_timeout": "10s",
    "reserved_connections": "40",
    "max_notify_queue_pages": "1024",
}

SALES_DAG = "sales_load_and_aggregation"
DAGS = ("customer_data_load", "feature_store", SALES_DAG)

# The settings of Airflow that the containers have too.
AIRFLOW_ENV = ROOT / "airflow.env"

SERVICES = {
    "api-server": ["api-server"],
    # Its server for logs would listen on all addresses. The API server reads them from the disk.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}


class UpError(RuntimeError):
    """The embedded run cannot go on; the message says why and where to look."""


@dataclass
class State:
    """What one command leaves for the next; secrets included, so only its owner may read the file."""

    postgres_home: str = ""
    postgres_port: int = 0
    airflow_port: int = 0
    bucket_port: int = 0
    first_month: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=lambda: passwords_of(os.environ))
    airflow_password: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    api_secret: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    fernet_key: str = field(default_factory=lambda: Fernet.generate_key().decode())

    @classmethod
    def load(cls) -> State:
        """The state of the last command, or a new one."""
        file = RUN / "state.json"
        return cls(**json.loads(file.read_text())) if file.exists() else cls()

    def save(self) -> None:
        """Keep the state for the next command."""
        unfinished = RUN / "state.unfinished"
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n")
        unfinished.rename(RUN / "state.json")

    @property
    def cluster(self) -> Cluster:
        """The server of this run."""
        return Cluster(Path(self.postgres_home), self.postgres_port, self.passwords["ADMIN_PASSWORD"])


def up() -> None:
    """Start everything, run the three workflows to their end, and print what was loaded.

    Raises:
        UpError: a setting is wrong, something did not start, or a task failed.
    """
    source = os.environ.get("SOURCE_BASE_URL", "").strip()
    if source and not source.lower().startswith("https://"):
        raise UpError("SOURCE_BASE_URL does not begin with https://. Correct it, or unset it for sample data.")
    keep_local_traffic_from_proxies()
    state = State.load()
    start_postgres(state)
    migrate(state)
    set_passwords(state)
    settings = {name: os.environ[name] for name in pipeline_settings() if os.environ.get(name)}
    if not source:
        settings |= start_bucket(state)
    has_records = bool(state.airflow_port)
    start_airflow(state, settings)
    if has_records:
        clean_airflow_database(state)
    wait_for_workflows(state)
    print_summary(state)


def keep_local_traffic_from_proxies() -> None:
    """Extend NO_PROXY by this machine, for all processes that inherit it: services, tasks and the sample bucket.

    Raises:
        UpError: a proxy in the environment keeps Airflow from starting.
    """
    for kind, proxy in getproxies().items():
        if proxy.startswith("socks") and not (find_spec("socks") and find_spec("socksio")):
            raise UpError(
                f"{kind.upper()}_PROXY is a SOCKS proxy, which Airflow and the downloads cannot use without two more "
                f"packages. Install them with .venv/bin/pip install PySocks socksio, or unset {kind.upper()}_PROXY."
            )
    kept = [host.strip() for host in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")]
    # Airflow reads the log of a running task by the name of the machine.
    here = [*LOOPBACK, socket.gethostname(), socket.getfqdn()]
    if kept != ["*"]:
        # Libraries differ in which of the two they read first.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(filter(None, [*kept, *here])))


def set_passwords(state: State) -> None:
    """Give the logins the passwords that are set in the environment; the others keep theirs."""
    passwords = passwords_of(os.environ, state.passwords)
    logins = {login: passwords[f"{login.upper()}_PASSWORD"] for login in (ADMIN, "ds_user", "mle_user", "pipeline")}
    with state.cluster.connect("postgres") as connection:
        alter_roles(connection, logins)
    if passwords != state.passwords:
        processes.stop(RUN)  # Airflow starts again with them
        state.passwords = passwords
        state.save()


def rotate() -> None:
    """Replace all keys, and set the passwords that the environment has. Stops Airflow.

    Raises:
        UpError: nothing was started here.
    """
    state = State.load()
    if not state.postgres_home:
        raise UpError("nothing was started here, so there is nothing to rotate. make up starts it.")
    processes.stop(RUN)
    new = State()
    state.airflow_password, state.jwt_secret, state.api_secret = new.airflow_password, new.jwt_secret, new.api_secret
    # The first key encrypts, and both decrypt until everything is encrypted again.
    state.fernet_key = f"{new.fernet_key},{state.fernet_key}"
    state.pids = {}
    state.save()
    start_postgres(state)
    set_passwords(state)
    run_to_the_end(
        [sys.executable, "-m", "airflow", "rotate-fernet-key"], airflow_environment(state), "airflow-rotate-fernet-key"
    )
    state.fernet_key = new.fernet_key
    state.save()
    print("rotated the keys and set the passwords; make up starts Airflow with them")


def down() -> None:
    """Stop everything that `up` started; harmless when nothing runs."""
    state = State.load()
    processes.stop(RUN)
    if state.postgres_home:
        state.cluster.stop()
    state.pids = {}
    if (RUN / "state.json").exists():
        state.save()
    print("stopped; the data is kept (make up goes on with it, make clean deletes it)")


def clean() -> None:
    """Stop everything and delete its data."""
    state = State.load()
    down()
    if state.postgres_home:
        shutil.rmtree(state.postgres_home, ignore_errors=True)
    shutil.rmtree(RUN)
    print("deleted the embedded run's data")


def status() -> bool:
    """Print what is loaded here, or in the database of DATABASE_URL where that is set; returns whether everything is.

    Raises:
        UpError: nothing runs here, or DATABASE_URL is of another database system.
    """
    if url := os.environ.get("DATABASE_URL"):
        # The driver that Alembic uses is of no matter here.
        scheme, _, address = url.strip().partition("://")
        if scheme.partition("+")[0] not in ("postgres", "postgresql"):
            raise UpError("DATABASE_URL does not begin with postgresql://. Correct it, or unset it.")
        found = read_status(f"postgresql://{address}", months_due(os.environ))
    else:
        state = State.load()
        if not state.postgres_home or not state.cluster.is_running():
            raise UpError("nothing runs here. make up starts it; with DATABASE_URL another database is asked.")
        found = read_status(state.cluster.url("companydata"), months_due(state.settings))
    print_status(found)
    return found.complete


def plan(month: str) -> None:
    """Load a month up to the point at which it would be published, and print what would change.

    Args:
        month: the month (YYYY-MM).

    Raises:
        UpError: nothing runs here, the month cannot be loaded, or its file is rejected.
    """
    state = State.load()
    if not state.pids or not processes.alive(state.pids.get("scheduler", 0), RUN):
        raise UpError("nothing runs here. make up starts it.")
    try:
        after = (date.fromisoformat(f"{month}-01") + timedelta(days=31)).replace(day=1)
    except ValueError:
        raise UpError(f'MONTH is "{month}", which is no month. Write it as YYYY-MM, for example 2024-02.') from None
    api = wait_for_api(state)
    # Any moment of the month after it; a run has a moment of its own.
    run = api.trigger(SALES_DAG, f"{after}T{datetime.now(UTC):%H:%M:%S.%f}Z", {"preview": True})
    while not (questions := api.questions(SALES_DAG, run)):
        [found] = [found for found in api.runs(SALES_DAG) if found["dag_run_id"] == run]
        raise_failures(api, {SALES_DAG: [found]})
        if found["state"] == "success":
            raise UpError("a later load of the month was published meanwhile, so there is nothing to decide.")
        time.sleep(0.5)
    for question in questions:
        print(question["body"])
    print(f"\nNothing is published. Approve or reject it: {ui_url(state)}/required_actions")


def backup(folder: Path | None) -> None:
    """Copy the server and the keys of this run into a new folder; loads may go on meanwhile.

    Args:
        folder: the new folder; by default one in backups/, named by the time.

    Raises:
        UpError: nothing runs here, or the folder exists.
        ClusterError: the copy failed.
    """
    state = State.load()
    if not state.postgres_home or not state.cluster.is_running():
        raise UpError("nothing runs here, so there is nothing to back up. make up starts it.")
    folder = (folder or BACKUPS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}").absolute()
    if folder.exists():
        raise UpError(f"{folder} exists. A backup is written into a new folder: name another one.")
    # Renamed when it is whole: an interrupted backup is not taken for one.
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    began = time.monotonic()
    state.cluster.back_up(unfinished / "data")
    shutil.copy(RUN / "state.json", unfinished)
    unfinished.rename(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"backed up into {folder}: {size / 1e6:,.0f} MB in {time.monotonic() - began:.0f} s, verified")


def restore(folder: Path | None) -> None:
    """Stop this run and go on with a backup. The data that was here is kept beside it.

    Args:
        folder: the backup; by default the newest one in backups/.

    Raises:
        UpError: there is no backup.
        ClusterError: the backup is damaged, or its server does not start.
    """
    folder = folder or max((file.parent for file in BACKUPS.glob("*Z/state.json")), default=BACKUPS)
    if not (folder / "state.json").exists():
        raise UpError(f"there is no backup in {folder}. make backup makes one; BACKUP names its folder.")
    home = State.load().postgres_home
    if home:
        down()
    # The databases of the backup know the keys and passwords of its time.
    state = replace(
        State(**json.loads((folder / "state.json").read_text())),
        postgres_home=home or str(Cluster.new_home(RUN / "postgres")),
        pids={},
    )
    data = state.cluster.data
    kept = data.with_name(f"data.before-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}")
    if data.exists():
        data.rename(kept)
    try:
        state.cluster.restore(folder / "data")
    except ClusterError:
        if kept.exists():
            kept.rename(data)
        raise
    state.save()
    start_postgres(state)
    print(f"restored {folder}; make up starts Airflow, which loads the months that are missing")
    if kept.exists():
        print(f"The data that was here before is in {kept}; make clean deletes it too.")


def start_postgres(state: State) -> None:
    """Start the server, made where it is new, with a database for the data and one for Airflow.

    Raises:
        UpError: POSTGRES_BIN has programs of an old version.
    """
    reject_old_programs()
    if not state.postgres_home:
        state.postgres_home = str(Cluster.new_home(RUN / "postgres"))
        state.save()
    if not state.cluster.is_running():
        say("starting PostgreSQL")
        state.cluster.create()
        started = state.cluster.start_on(
            lambda: choose_port("OPERATIONAL_DB_PORT", 5432, "PostgreSQL"), SERVER_SETTINGS
        )
        state.postgres_port = started.port
        state.save()
    with state.cluster.connect("postgres") as connection:
        if not connection.execute("select 1 from pg_roles where rolname = 'airflow'").fetchone():
            connection.execute("create role airflow login")
        alter_roles(connection, {"airflow": state.airflow_password})
        for database, owner in (("companydata", ADMIN), ("airflow", "airflow")):
            if not connection.execute("select 1 from pg_database where datname = %s", [database]).fetchone():
                connection.execute(
                    sql.SQL("create database {} owner {}").format(sql.Identifier(database), sql.Identifier(owner))
                )
        # Readers need no connection there, and the privileges of public are not restricted there.
        connection.execute("revoke connect on database airflow, postgres, template1 from public")
        connection.execute("grant pg_use_reserved_connections to airflow")


def reject_old_programs() -> None:
    """Look at the version of POSTGRES_BIN, before its programs make a server.

    Raises:
        UpError: it is too old.
    """
    if folder := os.environ.get("POSTGRES_BIN"):
        command = [f"{folder}/initdb", "--version"]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        number = re.search(r"\(PostgreSQL\) (\d+)", version)
        if number and int(number[1]) < OLDEST_SERVER:
            raise UpError(
                f"POSTGRES_BIN has {version}. This project needs PostgreSQL {OLDEST_SERVER} or later. Nothing was "
                "started. Set it to the folder of another PostgreSQL, or unset it."
            )


def migrate(state: State) -> None:
    """Bring companydata to the newest revision."""
    say("migrating companydata")
    run_to_the_end(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        {**os.environ, **state.passwords, "DATABASE_URL": state.cluster.url("companydata")},
        "alembic",
    )


def start_bucket(state: State) -> dict[str, str]:
    """Serve sample files up to last month, and return the settings that point Airflow to them."""
    this_month = datetime.now(UTC).date().replace(day=1)
    if not state.first_month:
        state.first_month = str(months_before(this_month, SAMPLE_MONTHS)[0])
    first = date.fromisoformat(state.first_month)
    count = (this_month.year - first.year) * 12 + this_month.month - first.month
    write_bucket(RUN / "bucket", months_before(this_month, count))

    certificates = RUN / "certificates"
    write_certificates(certificates, ["127.0.0.1", "localhost"])
    if not processes.alive(state.pids.get("bucket"), RUN):
        say("starting the sample bucket")
        state.bucket_port = free_port()
        command = [sys.executable, "-m", "local.bucket", "--directory", str(RUN / "bucket")]
        command += ["--certificate-folder", str(certificates), "--port", str(state.bucket_port)]
        state.pids["bucket"] = processes.start(
            command, {**without_passwords(os.environ), "PYTHONPATH": str(ROOT)}, RUN, LOGS / "bucket.log"
        )
        state.save()
    return {
        "SOURCE_BASE_URL": f"https://127.0.0.1:{state.bucket_port}",
        "SOURCE_CA_FILE": str(certificates / "ca.pem"),
        "SALES_FIRST_MONTH": os.environ.get("SALES_FIRST_MONTH") or state.first_month[:7],
    }


def start_airflow(state: State, settings: dict[str, str]) -> None:
    """Start Airflow's services. Restart all of them if a setting has changed or one of them has ended."""
    services = {name: state.pids.get(name) for name in SERVICES}
    running = all(processes.alive(pid, RUN) for pid in services.values())
    if running and state.settings == settings:
        return
    if any(processes.alive(pid, RUN) for pid in services.values()):
        say("restarting Airflow: a setting has changed, or a part of it is gone")
        processes.stop(RUN)
        if "bucket" in state.pids:
            del state.pids["bucket"]
            settings = {**settings, **start_bucket(state)}
    state.airflow_port = choose_port("AIRFLOW_PORT", 8082, "Airflow")
    state.settings = settings
    state.save()

    environment = airflow_environment(state)
    say("preparing Airflow's database")
    run_to_the_end([sys.executable, "-m", "airflow", "db", "migrate"], environment, "airflow-db-migrate")
    say("starting Airflow")
    for name, arguments in SERVICES.items():
        command = [sys.executable, "-m", "airflow", *arguments]
        state.pids[name] = processes.start(command, environment, RUN, LOGS / f"{name}.log")
        state.save()


def read_airflow_env() -> dict[str, str | None]:
    """The lines of airflow.env as docker compose reads them: a name without a value is taken from the environment."""
    settings: dict[str, str | None] = {}
    for line in AIRFLOW_ENV.read_text().splitlines():
        if line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            settings[name] = value if separator else None
    return settings


def pipeline_settings() -> list[str]:
    """Names of the settings of the workflows, proxies included. Airflow is restarted if one of them has changed."""
    of_workflows = [name for name, value in read_airflow_env().items() if value is None]
    return [*of_workflows, "SOURCE_CA_FILE", *PROXIES, *map(str.lower, PROXIES)]


def clean_airflow_database(state: State) -> None:
    """Delete Airflow's records of old runs. One that cannot be deleted does not stop the start."""
    try:
        run_to_the_end([sys.executable, "-m", "local.cleaning"], airflow_environment(state), "airflow-db-clean")
    except UpError as error:
        say(str(error))


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
        **{name: value for name, value in read_airflow_env().items() if value is not None},
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
        "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS": "local.airflow_logging.LOGGING_CONFIG",
        # Other accounts read no log.
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        # Airflow renames its processes; without this the new names overwrite the mark that finds them.
        "SPT_NOENV": "1",
    }


def wait_for_workflows(state: State) -> None:
    """Wait until everything is loaded and the runs have ended, showing how far they are.

    Raises:
        UpError: a task failed, a service died, or nothing moved for a quarter of an hour.
    """
    api = wait_for_api(state)
    shown, changed, spoken = "", time.monotonic(), 0.0
    while True:
        check_services(state)
        runs = {dag: api.runs(dag) for dag in DAGS}
        due = months_due(state.settings)
        status = read_status(state.cluster.url("companydata"), due)
        progress = progress_of(status, due)
        now = time.monotonic()
        if progress != shown:
            shown, changed = progress, now
            say(progress)
            spoken = now
        elif now - spoken > HEARTBEAT_SECONDS:
            say(f"{progress} (still at work)")
            spoken = now
        raise_failures(api, runs)
        active = [
            (dag, run["dag_run_id"]) for dag in DAGS for run in runs[dag] if run["state"] in ("queued", "running")
        ]
        if status.complete and len(active) <= list(status.month_states.values()).count("waiting"):
            return
        pending = list(status.month_states.values()).count("pending_approval")
        if pending and len(active) <= pending and all(api.questions(dag, run) for dag, run in active):
            print_status(status)
            raise UpError(
                "everything is loaded but an unusual month, which waits for a person who publishes or rejects it: "
                f"{ui_url(state)}/required_actions"
            )
        if months := passed_over(runs[SALES_DAG], status):
            start_backfill(api, months)
        if now - changed > STALL_SECONDS:
            raise UpError(f"nothing has moved for {STALL_SECONDS // 60} minutes ({progress}). Read the logs in {LOGS}.")
        time.sleep(1)


def progress_of(status: Status, due: Sequence[date]) -> str:
    """How far the first loads are, in one line."""
    tables = status.table_states
    return (
        f"customer files {'loaded' if tables['customer_profiles'] == 'loaded' else 'loading'}; "
        f"feature store {'built' if tables['feature_store'] == 'loaded' else 'waiting'}; "
        f"sales {sum(status.month_states[month] in GOOD_STATES for month in due)} of {len(due)} months"
    )


def passed_over(sales_runs: Sequence[Mapping[str, Any]], status: Status) -> list[date]:
    """The missing months that catch-up never loads, because it goes on from the newest scheduled run."""
    runs = {run["data_interval_start"][:7]: run["dag_run_id"] for run in sales_runs if run["data_interval_start"]}
    newest = max((month for month, name in runs.items() if name.startswith("scheduled__")), default="")
    return [
        month
        for month, state in status.month_states.items()
        if state == "missing" and f"{month:%Y-%m}" < newest and f"{month:%Y-%m}" not in runs
    ]


def start_backfill(api: Api, months: Sequence[date]) -> None:
    """Load months that catch-up passes over; while another backfill runs, this one is not started."""
    if api.backfill(SALES_DAG, str(months[0]), str(months[-1])):
        say(
            f"SALES_FIRST_MONTH is earlier than the months that are scheduled, and catch-up only goes forward: "
            f"started a backfill from {months[0]:%Y-%m} to {months[-1]:%Y-%m}"
        )


def wait_for_api(state: State) -> Api:
    """Log in as soon as the server answers.

    Raises:
        UpError: it did not within three minutes.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        check_services(state)
        try:
            return Api(ui_url(state), UI_LOGIN, state.passwords["AIRFLOW_UI_PASSWORD"])
        except requests.RequestException:
            time.sleep(1)
    raise UpError(f"Airflow's api-server does not answer at {ui_url(state)}. Read {LOGS / 'api-server.log'}.")


def check_services(state: State) -> None:
    """Raise UpError when a process that should run has ended."""
    for name, pid in state.pids.items():
        if not processes.alive(pid, RUN):
            log = LOGS / f"{name}.log"
            raise UpError(f"{name} has ended. The end of {log}:\n{log.read_text(errors='replace')[-2000:]}")


def raise_failures(api: Api, runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Raise UpError with the log of the tasks of failed runs, and of DAG files that cannot be read."""
    messages = [f"a DAG file cannot be read: {error}" for error in api.import_errors()]
    for dag, runs_of_dag in runs.items():
        for run in runs_of_dag:
            if run["state"] == "failed":
                messages += [
                    f"{dag}, run {failure.run}, task {failure.task} failed:\n{failure.log}"
                    for failure in api.failures(dag, run["dag_run_id"])
                ]
    if messages:
        raise UpError("\n\n".join([*messages, "Everything still runs: look at it in the UI; make down stops it."]))


def print_summary(state: State) -> None:
    """Print what was loaded, and how to look at it."""
    print()
    print_status(read_status(state.cluster.url("companydata"), months_due(state.settings)))
    # Of one's own passwords none is printed.
    known = {name: password == DEFAULT_PASSWORDS[name] for name, password in state.passwords.items()}
    login = f"{UI_LOGIN} / {DEFAULT_PASSWORDS['AIRFLOW_UI_PASSWORD']}" if known["AIRFLOW_UI_PASSWORD"] else UI_LOGIN
    print(f"\nAirflow     {ui_url(state)}  (login {login})")
    psql = shutil.which("psql") or state.cluster.programs / "psql"
    for number, user in enumerate((ADMIN, "ds_user", "mle_user")):
        address = state.cluster.url("companydata", user, user, driver="postgresql")
        if not known[f"{user.upper()}_PASSWORD"]:
            address = address.replace(f"{user}:{user}@", f"{user}@")  # psql asks for it
        print(f"{'PostgreSQL' if number == 0 else '':<11} {psql} {address}")
    if warning := shared_machine(state.passwords):
        print(f"\n{warning}")
    print("\nmake down stops it and keeps the data; make clean deletes the data too.")


def shared_machine(passwords: Mapping[str, str]) -> str:
    """What documented passwords mean where other people have accounts, in one line; empty if none is in use."""
    documented = [name for name, default in DEFAULT_PASSWORDS.items() if default and passwords[name] == default]
    if not documented:
        return ""
    who = ", as superuser too" if "ADMIN_PASSWORD" in documented else ""
    settings = " ".join(f"{name}=…" for name in documented)
    return (
        f"Every account on this machine can log in with the documented passwords{who}. Change them: {settings} make up"
    )


def ui_url(state: State) -> str:
    """Address of Airflow's UI."""
    return f"http://127.0.0.1:{state.airflow_port}"


def choose_port(setting: str, default: int, server: str) -> int:
    """The port that a setting asks for, or the next free one, said aloud."""
    wanted = int(os.environ.get(setting) or default)
    port = free_port(wanted)
    if port != wanted:
        say(f"port {wanted} is taken: {server} gets {port} ({setting} chooses another)")
    return port


def run_to_the_end(command: list[str], environment: dict[str, str], name: str) -> None:
    """Run a command with its output in a log.

    Raises:
        UpError: it failed; the message holds the end of the log.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            env={**environment, processes.MARK: str(RUN)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise UpError(f"{name} failed. The end of {log}:\n{log.read_text(errors='replace')[-3000:]}")


def say(message: str) -> None:
    """Show progress, at once even where the output goes to a file."""
    print(f"{datetime.now():%H:%M:%S}  {message}", flush=True)


@contextmanager
def only_one_command() -> Iterator[None]:
    """Keep two commands from working on one run at the same time.

    Raises:
        UpError: another one is at work.
    """
    RUN.mkdir(mode=0o700, exist_ok=True)
    RUN.chmod(0o700)
    with (RUN / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpError(
                "another make up, restore, rotate, down or clean is at work. Wait for it, or interrupt it."
            ) from None
        yield


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("command", choices=["up", "status", "plan", "backup", "restore", "rotate", "down", "clean"])
    parser.add_argument("folder", nargs="?", type=Path, help="for backup and restore: the folder")
    parser.add_argument("--month", default="", help="for plan: the month (YYYY-MM)")
    arguments = parser.parse_args()
    command, folder, month = arguments.command, arguments.folder, arguments.month
    # What this command and the processes that it starts write is for its account alone.
    os.umask(0o077)
    try:
        # These two only look, while another command is at work too.
        if command == "status":
            return 0 if status() else 1
        if command == "plan":
            plan(month)
            return 0
        if command == "backup":
            backup(folder)
            return 0
        with only_one_command():
            {"up": up, "restore": lambda: restore(folder), "rotate": rotate, "down": down, "clean": clean}[command]()
    except (
        UpError,
        ClusterError,
        OSError,
        RuntimeError,
        ValueError,
        psycopg.Error,
        requests.RequestException,
    ) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; make down stops what was started, make up goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
