"""`make up`: starts PostgreSQL, the sample bucket and Airflow, runs the workflows, and prints what was loaded."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from importlib.util import find_spec
from typing import Any
from urllib.request import getproxies

from embedded import processes
from embedded.airflow import (
    UI_LOGIN,
    airflow_environment,
    check_services,
    pipeline_settings,
    raise_failures,
    ui_url,
    wait_for_api,
)
from embedded.api import Api
from embedded.bucket import write_certificates
from embedded.postgres import ADMIN, free_port
from embedded.progress import choose_port, run_to_the_end, say
from embedded.sample_data import months_before, write_bucket
from embedded.server import set_passwords, start_postgres
from embedded.state import LOGS, ROOT, RUN, RunError, State
from services.passwords import DEFAULT_PASSWORDS, without_passwords
from services.status import GOOD_STATES, Status, months_due, print_status, read_status

SAMPLE_MONTHS = 12
LOOPBACK = ("127.0.0.1", "localhost", "::1")

STALL_SECONDS = 900
HEARTBEAT_SECONDS = 15

# What of Airflow is started.
SERVICES = {
    "api-server": ["api-server"],
    # Its server for logs would listen on all addresses. The API server reads them from the disk.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}


def up() -> None:
    """Start everything, run the three workflows to their end, and print what was loaded.

    Raises:
        RunError: a setting is wrong, something did not start, or a task failed.
    """
    source = os.environ.get("SOURCE_BASE_URL", "").strip()
    if source and not source.lower().startswith("https://"):
        raise RunError("SOURCE_BASE_URL does not begin with https://. Correct it, or unset it for sample data.")
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
        RunError: a proxy in the environment keeps Airflow from starting.
    """
    for kind, proxy in getproxies().items():
        if proxy.startswith("socks") and not (find_spec("socks") and find_spec("socksio")):
            raise RunError(
                f"{kind.upper()}_PROXY is a SOCKS proxy, which Airflow and the downloads cannot use without two more "
                f"packages. Install them with .venv/bin/pip install PySocks socksio, or unset {kind.upper()}_PROXY."
            )
    kept = [host.strip() for host in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")]
    # Airflow reads the log of a running task by the name of the machine.
    here = [*LOOPBACK, socket.gethostname(), socket.getfqdn()]
    if kept != ["*"]:
        # Libraries differ in which of the two they read first.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(filter(None, [*kept, *here])))


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
        command = [sys.executable, "-m", "embedded.bucket", "--directory", str(RUN / "bucket")]
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


def clean_airflow_database(state: State) -> None:
    """Delete Airflow's records of old runs. One that cannot be deleted does not stop the start."""
    try:
        run_to_the_end(
            [sys.executable, "-m", "services.airflow_db_clean"], airflow_environment(state), "airflow-db-clean"
        )
    except RunError as error:
        say(str(error))


def wait_for_workflows(state: State) -> None:
    """Wait until everything is loaded and the runs have ended, showing how far they are.

    Raises:
        RunError: a task failed, a service died, or nothing moved for a quarter of an hour.
    """
    api = wait_for_api(state)
    shown, changed, spoken = "", time.monotonic(), 0.0
    dags: dict[str, str] = {}  # by the table that they publish; not all before Airflow has read their files
    while True:
        check_services(state)
        due = months_due(state.settings)
        status = read_status(state.cluster.url("companydata"), due)
        if not dags.keys() >= status.table_states.keys():
            dags = api.producers()
        runs = {dag: api.runs(dag) for dag in sorted(set(dags.values()))}
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
            (dag, run["dag_run_id"]) for dag in runs for run in runs[dag] if run["state"] in ("queued", "running")
        ]
        waiting = list(status.month_states.values()).count("waiting")
        if status.complete and len(active) <= waiting:
            return
        if (empty := status.without_a_month) and len(active) <= waiting:
            print_status(status)
            raise RunError(
                f"the source has no month of {', '.join(empty)} from {due[0]:%Y-%m} to {due[-1]:%Y-%m}. Correct "
                "SOURCE_BASE_URL, or upload a file; make check-source says what the source has."
            )
        pending = list(status.month_states.values()).count("pending_approval")
        if pending and len(active) <= pending and all(api.questions(dag, run) for dag, run in active):
            print_status(status)
            raise RunError(
                "everything is loaded but an unusual month, which waits for a person who publishes or rejects it: "
                f"{ui_url(state)}/required_actions"
            )
        for table in {table for table, _ in status.month_states} & dags.keys():
            if months := passed_over(runs[dags[table]], status, table):
                start_backfill(api, dags[table], months)
        if now - changed > STALL_SECONDS:
            minutes = STALL_SECONDS // 60
            raise RunError(f"nothing has moved for {minutes} minutes ({progress}). Read the logs in {LOGS}.")
        time.sleep(1)


def progress_of(status: Status, due: Sequence[date]) -> str:
    """How far the first loads are, in one line."""
    tables, months = list(status.table_states.values()), status.month_states
    return "; ".join(
        [
            f"{tables.count('loaded')} of {len(tables)} tables",
            *(
                f"{table} {sum(months[table, month] in GOOD_STATES for month in due)} of {len(due)} months"
                for table in dict.fromkeys(table for table, _ in months)
            ),
        ]
    )


def passed_over(table_runs: Sequence[Mapping[str, Any]], status: Status, table: str) -> list[date]:
    """The missing months of a table that catch-up never loads: it goes on from the newest scheduled run of its DAG."""
    runs = {run["data_interval_start"][:7]: run["dag_run_id"] for run in table_runs if run["data_interval_start"]}
    newest = max((month for month, name in runs.items() if name.startswith("scheduled__")), default="")
    return [
        month
        for (of_table, month), state in status.month_states.items()
        if of_table == table and state == "missing" and f"{month:%Y-%m}" < newest and f"{month:%Y-%m}" not in runs
    ]


def start_backfill(api: Api, dag: str, months: Sequence[date]) -> None:
    """Load months that catch-up passes over; while another backfill runs, this one is not started."""
    if api.backfill(dag, str(months[0]), str(months[-1])):
        say(
            f"SALES_FIRST_MONTH is earlier than the months that are scheduled, and catch-up only goes forward: "
            f"started a backfill from {months[0]:%Y-%m} to {months[-1]:%Y-%m}"
        )


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
