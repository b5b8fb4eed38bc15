"""`make down`: stops what `make up` started."""

from __future__ import annotations

from embedded import processes
from embedded.state import RUN, State


def down() -> None:
    """Stop what runs, and say what is kept."""
    stop()
    print("stopped; the data is kept (make up continues with it, make clean deletes it)")


def stop() -> None:
    """Stop everything that `up` started; harmless when nothing runs."""
    state = State.load()
    processes.stop(RUN)
    if state.postgres_home:
        state.cluster.stop()
    state.pids = {}
    if (RUN / "state.json").exists():
        state.save()
