"""The PostgreSQL server of the embedded run: its start, and the passwords of its logins."""

from __future__ import annotations

import os
import re
import subprocess

from psycopg import sql

from embedded import processes
from embedded.postgres import ADMIN, Cluster
from embedded.progress import choose_port, say
from embedded.state import RUN, RunError, State
from services.passwords import alter_roles, passwords_of

OLDEST_SERVER = 17

# Readers cannot stop the others by these: docker-compose.yml has the same. More connections are reserved than there,
# because Airflow's services use this server too: four with at most 15 each, and eight tasks with at most two each,
# seldom at the same time.
SERVER_SETTINGS = {
    "authentication_timeout": "10s",
    "reserved_connections": "40",
    "max_notify_queue_pages": "1024",
}


def start_postgres(state: State) -> None:
    """Start the server, made where it is new, with a database for the data and one for Airflow.

    Raises:
        RunError: POSTGRES_BIN has programs of an old version.
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
        RunError: it is too old.
    """
    if folder := os.environ.get("POSTGRES_BIN"):
        command = [f"{folder}/initdb", "--version"]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        number = re.search(r"\(PostgreSQL\) (\d+)", version)
        if number and int(number[1]) < OLDEST_SERVER:
            raise RunError(
                f"POSTGRES_BIN has {version}. This project needs PostgreSQL {OLDEST_SERVER} or later. Nothing was "
                "started. Set it to the folder of another PostgreSQL, or unset it."
            )


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
