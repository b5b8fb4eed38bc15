"""`make up`: starts PostgreSQL, the sample bucket and Airflow, runs the workflows, and prints what was loaded."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.request import getproxies

from embedded import processes
from embedded.airflow import UI_LOGIN, airflow_environment, ui_url
from embedded.environment import reject_wrong_settings
from embedded.postgres import ADMIN, Cluster
from embedded.progress import choose_port, run_to_the_end, say
from embedded.server import set_passwords, start_postgres
from embedded.source import other_sources, shown_source, workflow_settings
from embedded.state import LOGS, ROOT, RUN, RunError, State
from embedded.wait import wait_for_workflows
from services.passwords import DEFAULT_PASSWORDS
from services.status import months_due, print_status, read_status

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# What of Airflow is started.
SERVICES = {
    "api-server": ["api-server"],
    # Its server for logs would listen on all addresses. The API server reads them from the disk.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}


SECONDS_BETWEEN_CLEANINGS = 24 * 60 * 60


def up() -> None:
    """Start everything, run the workflows to their end, and print what was loaded.

    A month that waits for a late file, or for a person, is not a failure.

    Raises:
        RunError: a setting is wrong, something did not start, or not everything is loaded.
    """
    reject_wrong_settings()
    keep_local_traffic_from_proxies()
    say(f"company data {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}")
    state = State.load()
    start_postgres(state)
    migrate(state)
    set_passwords(state)
    has_records = bool(state.airflow_port)
    start_airflow(state)
    say(f"source: {shown_source(state)}")
    if has_records:
        clean_airflow_database(state)
    outcome = wait_for_workflows(state)
    print_summary(state)
    if outcome.problems:
        end = "Everything still runs: look at it in the UI; make down stops it."
        raise RunError("\n\n".join([*outcome.problems, end]))
    if outcome.questions:
        print(f"\n{outcome.questions}: {ui_url(state)}/required_actions")


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


def start_airflow(state: State) -> None:
    """Start Airflow's services. Restart all of them if a setting has changed or one of them has ended."""
    settings = workflow_settings(state)
    services = {name: state.pids.get(name) for name in SERVICES}
    running = all(processes.alive(pid, RUN) for pid in services.values())
    if running and state.settings == settings:
        return
    if any(processes.alive(pid, RUN) for pid in services.values()):
        say("restarting Airflow: a setting has changed, or a part of it is gone")
        processes.stop(RUN)
        settings = workflow_settings(state)  # the bucket was stopped, too
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
    """Delete Airflow's records of old runs, once a day. One that cannot be deleted does not stop the start."""
    log = LOGS / "airflow-db-clean.log"
    if log.exists() and time.time() - log.stat().st_mtime < SECONDS_BETWEEN_CLEANINGS:
        return
    try:
        run_to_the_end(
            [sys.executable, "-m", "services.airflow_db_clean"], airflow_environment(state), "airflow-db-clean"
        )
    except RunError as error:
        say(str(error))


def print_summary(state: State) -> None:
    """Print what was loaded, and how to look at it."""
    print()
    print_status(read_status(state.cluster.url("companydata"), months_due(state.settings)))
    print(other_sources(state), end="")
    # Passwords that were changed are not printed.
    known = {name: password == DEFAULT_PASSWORDS[name] for name, password in state.passwords.items()}
    login = f"{UI_LOGIN} / {DEFAULT_PASSWORDS['AIRFLOW_UI_PASSWORD']}" if known["AIRFLOW_UI_PASSWORD"] else UI_LOGIN
    print(f"\nAirflow     {ui_url(state)}  (login {login})")
    psql = psql_of(state.cluster)
    for number, user in enumerate((ADMIN, "ds_user", "mle_user")):
        address = state.cluster.url("companydata", user, user)
        if not known[f"{user.upper()}_PASSWORD"]:
            address = address.replace(f"{user}:{user}@", f"{user}@")  # psql asks for it
        print(f"{'PostgreSQL' if number == 0 else '':<11} {psql} {address}")
    if psql != "psql":
        print(f"{'':<11} (this psql is the server's own: this machine has none of its version)")
    if warning := shared_machine(state.passwords):
        print(f"\n{warning}")
    print("\nWhat to try next: docs/tour.md, ten minutes with a month that is wrong.")
    print("make down stops it and keeps the data; make clean deletes the data too.")


def psql_of(cluster: Cluster) -> str:
    """This machine's psql, or the server's own one if there is none or an older one, in which \\l and \\d can fail."""
    servers = str(cluster.programs / "psql")
    found = shutil.which("psql")
    return "psql" if found and major_version(found) >= major_version(servers) else servers


def major_version(psql: str) -> int:
    """The major version of a psql, of which --version prints, for example, psql (PostgreSQL) 18.6."""
    printed = subprocess.run([psql, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\) (\d+)", printed)
    return int(found[1]) if found else 0


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
