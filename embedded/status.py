"""`make status`: what is loaded here, or in the database of DATABASE_URL."""

from __future__ import annotations

import os

from embedded.state import RunError, State
from services.status import months_due, print_status, read_status


def status() -> bool:
    """Print what is loaded here, or in the database of DATABASE_URL where that is set; returns whether everything is.

    Raises:
        RunError: nothing runs here, or DATABASE_URL is of another database system.
    """
    if url := os.environ.get("DATABASE_URL"):
        # The driver that Alembic uses is of no matter here.
        scheme, _, address = url.strip().partition("://")
        if scheme.partition("+")[0] not in ("postgres", "postgresql"):
            raise RunError("DATABASE_URL does not begin with postgresql://. Correct it, or unset it.")
        found = read_status(f"postgresql://{address}", months_due(os.environ))
    else:
        state = State.load()
        if not state.postgres_home or not state.cluster.is_running():
            raise RunError("nothing runs here. make up starts it; with DATABASE_URL another database is asked.")
        found = read_status(state.cluster.url("companydata"), months_due(state.settings))
    print_status(found)
    return found.complete
