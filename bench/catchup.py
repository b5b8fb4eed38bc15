"""How long the real scheduler takes for many small months, on the system that `make up` starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.files import bucket, write_sales, write_stores
from bench.processes import BenchError
from bench.text import spread
from local.airflow import Api
from local.postgres import free_port
from local.sample_data import months_before
from local.tree import copy_tree

DAG = "sales_load_and_aggregation"
ROWS = 3_000
CUSTOMER_FILES = {
    "customer_profiles.csv": "idx,attr_a,attr_b,attr_c\n1,1,A,x\n",
    "customer_activity.csv": "idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,1,1\n",
    "labels.csv": "idx,label\n1,0\n",
}


def run(months: int) -> dict[str, Any]:
    """Start the system on a copy of the tree, with a bucket that has these months, and let it catch up."""
    first_days = months_before(datetime.now(UTC).date(), months)
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        tree, folder = Path(place) / "tree", Path(place) / "bucket"
        copy_tree(tree)
        for day in first_days:
            write_sales(folder / f"sales/{day}/sales.csv", str(day), ROWS)
        write_stores(folder)
        for name, text in CUSTOMER_FILES.items():
            (folder / name).write_text(text)
        with bucket(folder, Path(place) / "certificates") as addresses:
            ports = {"OPERATIONAL_DB_PORT": str(free_port(25432)), "AIRFLOW_PORT": str(free_port(28082))}
            environment = {**os.environ, **addresses, **ports, "SALES_FIRST_MONTH": f"{first_days[0]:%Y-%m}"}
            try:
                _local("up", tree, environment)
                runs = Api(f"http://127.0.0.1:{ports['AIRFLOW_PORT']}", "airflow", "airflow").runs(DAG)
            finally:
                _local("clean", tree, environment)
    if [run["state"] for run in runs] != ["success"] * months:
        raise BenchError(f"{months} months should have been loaded, and the runs are {runs}.")
    begins = [datetime.fromisoformat(run["start_date"]) for run in runs]
    ends = [datetime.fromisoformat(run["end_date"]) for run in runs]
    seconds = (max(ends) - min(begins)).total_seconds()
    each = [(end - begin).total_seconds() for begin, end in zip(begins, ends, strict=True)]
    print(
        f"{months} months of {ROWS:,} sales, from the first run's start to the last one's end: {seconds:.1f} s, "
        f"{seconds / months:.2f} s a month; a run, beside others, {spread(each)} s",
        flush=True,
    )
    return {"months": months, "rows": ROWS, "seconds": seconds, "runs": each}


def _local(command: str, tree: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local", command], cwd=tree, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BenchError(f"python -m local {command} failed:\n{done.stdout}{done.stderr}")
