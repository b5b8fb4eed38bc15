"""What the commands show while they work, and the programs that they run to their end."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime

from embedded import processes
from embedded.postgres import free_port
from embedded.state import LOGS, ROOT, RUN, RunError


def say(message: str) -> None:
    """Show progress, at once even where the output goes to a file."""
    print(f"{datetime.now():%H:%M:%S}  {message}", flush=True)


def run_to_the_end(command: list[str], environment: dict[str, str], name: str) -> None:
    """Run a command with its output in a log.

    Raises:
        RunError: it failed; the message holds the end of the log.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            env={**environment, processes.MARK: str(RUN)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise RunError(f"{name} failed. The end of {log}:\n{log.read_text(errors='replace')[-3000:]}")


def choose_port(setting: str, default: int, server: str) -> int:
    """The port that a setting asks for, or the next free one, with a message."""
    wanted = int(os.environ.get(setting) or default)
    port = free_port(wanted)
    if port != wanted:
        say(f"port {wanted} is taken: {server} gets {port} ({setting} chooses another)")
    return port
