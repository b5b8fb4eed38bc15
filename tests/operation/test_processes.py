"""Background processes of the embedded run are found as soon as they are started."""

import os
from pathlib import Path

import pytest

from embedded import processes


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # make up leaves them running too
def test_a_process_is_alive_as_soon_as_it_is_started(tmp_path: Path) -> None:
    try:
        # One start in a hundred would find the process without its environment, if start() did not wait for it.
        for _ in range(300):
            pid = processes.start(["sleep", "600"], os.environ, tmp_path, tmp_path / "log")
            assert processes.alive(pid, tmp_path)
    finally:
        processes.stop(tmp_path)
