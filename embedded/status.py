"""`make status`: what is loaded here, or in the database of DATABASE_URL."""

from __future__ import annotations

import os

from embedded.environment import database_url
from embedded.source import other_sources
from embedded.state import RunError, State
from services.status import months_due, print_status, read_status


def status() -> bool:
    """Print what is loaded here, or in the database of DATABASE_URL where that is set; returns whether everything is.

    Raises:
        RunError: nothing runs here, or DATABASE_URL is of another database system.
        ValueError: a month in the settings is not one.
    """
    if address := database_url():
        found = read_status(address, months_due(os.environ))
        print_status(found)
        return found.complete
    state = State.load()
    if not state.is_running:
        raise RunError("nothing runs here. make up starts it; with DATABASE_URL another database is read.")
    found = read_status(state.cluster.url("companydata"), months_due(state.settings))
    print_status(found)
    print(other_sources(state), end="")
    return found.complete
