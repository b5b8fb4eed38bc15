"""How long the real scheduler takes for many small months, on the system that `make up` starts."""

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench.customers import write_files
from bench.sales import DAG, write_month
from bench.server import Answer, BenchError, Server, call
from embedded.api import Api
from embedded.postgres import free_port
from embedded.sample_data import months_before
from embedded.tree import copy_tree

MONTHS, ROWS = 24, 3_000


def run(server: Server) -> Answer:
    """Start the system on a copy of the tree, with a bucket that has these months, and let it catch up."""
    first_days = months_before(datetime.now(UTC).date(), MONTHS)
    for day in first_days:
        write_month(server, str(day), ROWS)
    write_files(server, clients=1)
    ports = {"OPERATIONAL_DB_PORT": str(free_port(25432)), "AIRFLOW_PORT": str(free_port(28082))}
    # The files are alike, which is unusual.
    settings = {"SALES_FIRST_MONTH": f"{first_days[0]:%Y-%m}", "ON_ANOMALY": "ignore"}
    environment = {**server.environment, **ports, **settings}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        copy_tree(Path(folder))
        try:
            call([sys.executable, "-m", "embedded", "up"], Path(folder), **environment)
            runs = Api(f"http://127.0.0.1:{ports['AIRFLOW_PORT']}", "airflow", "airflow").runs(DAG)
        finally:
            call([sys.executable, "-m", "embedded", "clean"], Path(folder), **environment)
    if [run["state"] for run in runs] != ["success"] * MONTHS:
        raise BenchError(f"{MONTHS} months should have been loaded, and the runs are {runs}.")
    begin, end = min(run["start_date"] for run in runs), max(run["end_date"] for run in runs)
    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
    print(f"{MONTHS} months of {ROWS:,} sales: {seconds:.1f} s, {seconds / MONTHS:.2f} s per month", flush=True)
    return {"machine": server.machine, "months": MONTHS, "seconds": seconds}
