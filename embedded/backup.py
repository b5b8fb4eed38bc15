"""`make backup`: a copy of the server and of the keys."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from embedded.state import ROOT, RUN, RunError, State

BACKUPS = ROOT / "backups"


def backup(folder: Path | None) -> None:
    """Copy the server and the keys of this run into a new folder; loads may run meanwhile.

    Args:
        folder: the new folder; by default one in backups/, named by the time.

    Raises:
        RunError: nothing runs here, or the folder exists.
        ClusterError: the copy failed.
    """
    state = State.load()
    if not state.is_running:
        raise RunError("nothing runs here, so there is nothing to back up. make up starts it.")
    folder = (folder or BACKUPS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}").absolute()
    if folder.exists():
        raise RunError(f"{folder} exists. A backup is written into a new folder: name another one.")
    # Renamed when it is whole: an interrupted backup is not taken for one.
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    began = time.monotonic()
    state.cluster.back_up(unfinished / "data")
    shutil.copy(RUN / "state.json", unfinished)
    unfinished.rename(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"backed up into {folder}: {size / 1e6:,.0f} MB in {time.monotonic() - began:.0f} s, verified")
