"""`make clean`: deletes the data of the embedded run."""

from __future__ import annotations

import shutil

from embedded.down import down
from embedded.state import RUN, State


def clean() -> None:
    """Stop everything and delete its data."""
    state = State.load()
    down()
    if state.postgres_home:
        shutil.rmtree(state.postgres_home, ignore_errors=True)
    shutil.rmtree(RUN)
    print("deleted the embedded run's data")
