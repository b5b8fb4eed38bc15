"""A whole system as `make up` starts it, in a copy of the tree, with a bucket whose files a test may change."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
from misbehaviour import Answer, misbehaving

from local import processes
from local.airflow import Api
from local.postgres import free_port
from local.sample_data import months_before
from local.tree import ROOT, copy_tree


@dataclass
class System:
    """A started embedded run in a copy of the tree."""

    folder: Path
    bucket_folder: Path
    answers: dict[str, list[Answer]]
    environment: dict[str, str]
    passwords: dict[str, str]
    output: str

    @property
    def run(self) -> Path:
        return self.folder / ".embedded"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "state.json").read_text())
        return found

    def connect(self, database: str = "companydata") -> Any:
        port = self.state["postgres_port"]
        return psycopg.connect(f"postgresql://admin:admin@127.0.0.1:{port}/{database}", autocommit=True)

    def api(self) -> Api:
        return Api(f"http://127.0.0.1:{self.state['airflow_port']}", "airflow", "airflow")


def months(count: int) -> list[date]:
    """The first days of the last whole months, oldest first."""
    return months_before(datetime.now(timezone.utc).date(), count)


def write_files(folder: Path) -> None:
    for month in months(2):
        file = folder / f"sales/{month}/sales.csv"
        file.parent.mkdir(parents=True)
        rows = "".join(f"{n},0.5,{month},1\n" for n in range(1_000))
        file.write_text("idx,value,date,store_idx\n" + rows)
    (folder / "stores.csv").write_text("idx,location\n1,Porto\n")
    (folder / "customer_profiles.csv").write_text("idx,attr_a,attr_b,attr_c\n1,1,A,x\n")
    (folder / "customer_activity.csv").write_text("idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,1,1\n")
    (folder / "labels.csv").write_text("idx,label\n1,0\n")


def lend_packages(folder: Path) -> None:
    """Give a copy of the tree a .venv made of links to the one here; make replaces it if it wants other packages."""
    (folder / ".venv").mkdir()
    for entry in (ROOT / ".venv").glob("*"):
        (folder / ".venv" / entry.name).symlink_to(entry)


@contextmanager
def started(folder: Path, bucket_folder: Path) -> Iterator[System]:
    """Run `make up` in a copy of the tree, on free ports, with passwords of its own; `make clean` at the end."""
    copy_tree(folder)
    lend_packages(folder)
    write_files(bucket_folder)
    passwords = {
        name: f"secret-{secrets.token_hex(8)}"
        for name in ("PIPELINE_PASSWORD", "DS_USER_PASSWORD", "MLE_USER_PASSWORD", "SOURCE")
    }
    with misbehaving(bucket_folder) as (bucket, answers, _):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **passwords,
            "SOURCE_BASE_URL": bucket.url.replace("https://", f"https://reader:{passwords['SOURCE']}@"),
            "REQUESTS_CA_BUNDLE": str(bucket.ca_file),
            "SALES_FIRST_MONTH": f"{months(2)[0]:%Y-%m}",
            "OPERATIONAL_DB_PORT": str(free_port(25432)),
            "AIRFLOW_PORT": str(free_port(28082)),
        }

        def make(target: str) -> str:
            done = subprocess.run(
                ["/usr/bin/env", "make", target],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        try:
            yield System(folder, bucket_folder, answers, environment, passwords, make("up"))
        finally:
            make("down")
            assert processes.of_run(folder / ".embedded") == []
            make("clean")


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
