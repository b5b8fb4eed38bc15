"""The embedded run: `python -m embedded up`, `status`, `backup`, `down` and more, called by the Makefile."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from embedded.backup import backup
from embedded.check_source import check_source
from embedded.clean import clean
from embedded.down import down
from embedded.environment import drop_airflow_settings, read_env_file
from embedded.examples import examples, report
from embedded.preview import preview
from embedded.progress import say
from embedded.restore import restore
from embedded.rotate import rotate
from embedded.state import only_one_command
from embedded.status import status
from embedded.up import up

Command = Callable[[argparse.Namespace], bool | None]

# These only look, while another command is at work too; false is an exit status of 1.
LOOKING: dict[str, Command] = {
    "status": lambda _: status(),
    "check-source": lambda _: check_source(),
    "preview": lambda given: preview(given.table, given.month),
    "examples": lambda _: examples(),
    "report": lambda _: report(),
    "backup": lambda given: backup(given.folder),
}
CHANGING: dict[str, Command] = {
    "up": lambda _: up(),
    "restore": lambda given: restore(given.folder),
    "rotate": lambda _: rotate(),
    "down": lambda _: down(),
    "clean": lambda _: clean(),
}


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m embedded", description=__doc__)
    parser.add_argument("command", choices=[*LOOKING, *CHANGING])
    parser.add_argument("folder", nargs="?", type=Path, help="for backup and restore: the folder")
    parser.add_argument("--month", default="", help="for preview: the month (YYYY-MM)")
    parser.add_argument("--table", default="", help="for preview: the monthly table")
    arguments = parser.parse_args()
    command = arguments.command
    # What this command and the processes that it starts write is for its account alone.
    os.umask(0o077)
    try:
        foreign = drop_airflow_settings()
        if command not in ("down", "clean"):  # a mistake in it keeps nobody from stopping
            read_env_file()
        if command == "up" and foreign:
            say(f"not used: {', '.join(foreign)}. The settings of Airflow are in services/airflow.env")
        if command in LOOKING:
            return 1 if LOOKING[command](arguments) is False else 0
        with only_one_command():
            CHANGING[command](arguments)
    except (OSError, RuntimeError, ValueError, psycopg.Error) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; make down stops what was started, make up continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
