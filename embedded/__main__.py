"""The embedded run: `python -m embedded up`, `status`, `backup`, `down` and more, called by the Makefile."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import psycopg
import requests

from embedded.backup import backup
from embedded.check_source import check_source
from embedded.clean import clean
from embedded.down import down
from embedded.environment import drop_airflow_settings, read_env_file
from embedded.examples import examples, report
from embedded.postgres import ClusterError
from embedded.preview import preview
from embedded.progress import say
from embedded.restore import restore
from embedded.rotate import rotate
from embedded.state import RunError, only_one_command
from embedded.status import status
from embedded.up import up


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m embedded", description=__doc__)
    commands = ["up", "status", "check-source", "preview", "examples", "report", "backup", "restore", "rotate"]
    commands += ["down", "clean"]
    parser.add_argument("command", choices=commands)
    parser.add_argument("folder", nargs="?", type=Path, help="for backup and restore: the folder")
    parser.add_argument("--month", default="", help="for preview: the month (YYYY-MM)")
    parser.add_argument("--table", default="", help="for preview: the monthly table")
    arguments = parser.parse_args()
    command, folder, month = arguments.command, arguments.folder, arguments.month
    # What this command and the processes that it starts write is for its account alone.
    os.umask(0o077)
    try:
        foreign = drop_airflow_settings()
        if command not in ("down", "clean"):  # a mistake in it keeps nobody from stopping
            read_env_file()
        if command == "up" and foreign:
            say(f"not used: {', '.join(foreign)}. The settings of Airflow are in services/airflow.env")
        # These only look, while another command is at work too.
        if command == "status":
            return 0 if status() else 1
        if command == "check-source":
            return 0 if check_source() else 1
        if command == "preview":
            preview(arguments.table, month)
            return 0
        if command in ("examples", "report"):
            {"examples": examples, "report": report}[command]()
            return 0
        if command == "backup":
            backup(folder)
            return 0
        with only_one_command():
            {"up": up, "restore": lambda: restore(folder), "rotate": rotate, "down": down, "clean": clean}[command]()
    except (
        RunError,
        ClusterError,
        OSError,
        RuntimeError,
        ValueError,
        psycopg.Error,
        requests.RequestException,
    ) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; make down stops what was started, make up continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
