"""`make rotate`: new keys, and the passwords of the environment."""

from __future__ import annotations

import sys

from embedded import processes
from embedded.airflow import airflow_environment
from embedded.progress import run_to_the_end
from embedded.server import set_passwords, start_postgres
from embedded.state import RUN, RunError, State


def rotate() -> None:
    """Replace all keys, and set the passwords that the environment has. Stops Airflow.

    Raises:
        RunError: nothing was started here.
    """
    state = State.load()
    if not state.postgres_home:
        raise RunError("nothing was started here, so there is nothing to rotate. make up starts it.")
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
