"""`make clean`: deletes the data of the embedded run."""

from __future__ import annotations

import shutil

from embedded.backup import BACKUPS
from embedded.down import stop
from embedded.state import RUN, State


def clean() -> None:
    """Stop everything and delete its data."""
    state = State.load()
    stop()
    if state.postgres_home:
        shutil.rmtree(state.postgres_home, ignore_errors=True)
    shutil.rmtree(RUN)
    print(f"stopped, and deleted its data in {RUN}{f' and {state.postgres_home}' if state.postgres_home else ''}")
    if any(BACKUPS.glob("*")):
        print(f"kept: the backups in {BACKUPS}; delete the folder by hand")
