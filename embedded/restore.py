"""`make restore`: continues with a backup."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from embedded.backup import BACKUPS
from embedded.down import stop
from embedded.postgres import Cluster, ClusterError
from embedded.server import start_postgres
from embedded.state import RUN, RunError, State


def restore(folder: Path | None) -> None:
    """Stop this run and continue with a backup. The data that was here is kept beside it.

    Args:
        folder: the backup; by default the newest one in backups/.

    Raises:
        RunError: there is no backup.
        ClusterError: the backup is damaged, or its server does not start.
    """
    folder = folder or max((file.parent for file in BACKUPS.glob("*Z/state.json")), default=BACKUPS)
    if not (folder / "state.json").exists():
        raise RunError(f"there is no backup in {folder}. make backup makes one; BACKUP names its folder.")
    home = State.load().postgres_home
    if home:
        stop()
    # The databases of the backup know the keys and passwords of its time.
    state = replace(
        State(**json.loads((folder / "state.json").read_text())),
        postgres_home=home or str(Cluster.new_home(RUN / "postgres")),
        pids={},
    )
    data = state.cluster.data
    kept = data.with_name(f"data.before-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}")
    if data.exists():
        data.rename(kept)
    try:
        state.cluster.restore(folder / "data")
    except ClusterError:
        if kept.exists():
            kept.rename(data)
        raise
    state.save()
    start_postgres(state)
    print(f"restored {folder}; make up starts Airflow, which loads the months that are missing")
    print("The passwords are those of the backup's time; make up sets the ones that the environment or .env has.")
    if kept.exists():
        print(f"The data that was here before is in {kept}; make clean deletes it too.")
