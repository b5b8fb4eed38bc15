"""`make check-source`: what the source has, and whether its files fit the tables, before anything is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import services.check_source
from embedded.environment import database_url
from embedded.postgres import Cluster
from embedded.progress import run_to_the_end
from embedded.state import RunError, State
from embedded.up import keep_local_traffic_from_proxies
from services.status import months_due


def check_source() -> bool:
    """Check the source of the environment, or of what runs here; returns whether it has all files, and they fit.

    Raises:
        RunError: the network or the source failed, or DATABASE_URL is of another database system.
    """
    from airflow.sdk.exceptions import AirflowException  # slow to import

    state = State.load()
    if not os.environ.get("SOURCE_BASE_URL"):
        os.environ |= state.settings
    keep_local_traffic_from_proxies()
    with migrated_database(state) as address:
        try:
            return services.check_source.check_source(address, months_due(os.environ))
        except AirflowException as error:
            raise RunError(str(error)) from None


@contextmanager
def migrated_database(state: State) -> Iterator[str]:
    """The database of DATABASE_URL, of what runs here, or else a temporary one."""
    if url := database_url():
        yield url
    elif state.is_running:
        yield state.cluster.url("companydata")
    else:
        with Cluster.temporary() as cluster:
            cluster.create_database("companydata", "template0", "admin")
            environment = {**os.environ, "DATABASE_URL": cluster.url("companydata")}
            run_to_the_end([sys.executable, "-m", "alembic", "upgrade", "head"], environment, "alembic")
            yield cluster.url("companydata")
