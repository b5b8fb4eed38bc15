"""The whole system, as `make up` starts it, in a copy of the tree."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import psycopg

from local import processes
from local.airflow import Api
from local.postgres import free_port
from local.sample_data import months_before
from local.tree import copy_tree

SALES_DAG = "sales_load_and_aggregation"


@dataclass
class System:
    """A started embedded run."""

    folder: Path
    output: str

    @property
    def run(self) -> Path:
        return self.folder / ".embedded"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "state.json").read_text())
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.state['airflow_port']}"

    def connect(self, database: str = "companydata") -> Any:
        port = self.state["postgres_port"]
        return psycopg.connect(f"postgresql://admin:admin@127.0.0.1:{port}/{database}", autocommit=True)

    def api(self) -> Api:
        return Api(self.url, "airflow", "airflow")


@contextmanager
def started(folder: Path, settings: Mapping[str, str]) -> Iterator[System]:
    """Copy the tree into a folder and start it there on free ports; it is stopped and deleted at the end."""
    copy_tree(folder)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "OPERATIONAL_DB_PORT": str(free_port(25432)),
        "AIRFLOW_PORT": str(free_port(28082)),
        **settings,
    }

    def local(command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "local", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        output = local("up")
        yield System(folder, output)
    finally:
        local("down")
        assert processes.of_run(folder / ".embedded") == []
        local("clean")


def months(count: int) -> list[date]:
    """The first days of the last whole months, oldest first."""
    return months_before(datetime.now(timezone.utc).date(), count)


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
