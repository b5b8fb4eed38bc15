"""Command line of the benchmark: `python -m bench`."""

import argparse
import json
import os
import sys
from pathlib import Path

from bench import catchup, cluster, customers, pairs, sales
from bench.server import ROOT, BenchError, Server, call
from embedded.postgres import ClusterError
from services import SAFE_PATH

RESULTS = ROOT / "bench" / "results"
PLOT, CLUSTER = "plot", "cluster"
PARTS = ("table", "history", "customers", "features", "pairs", "catchup", PLOT)
MAX_ROWS_OF_PEERS = 1_000_000


def main() -> None:
    """Run what the command line asks for."""
    os.environ["PGOPTIONS"] = SAFE_PATH  # for psql, the peers and all other processes
    parser = argparse.ArgumentParser(prog="python -m bench", epilog="bench/README.md describes the parts.")
    add = parser.add_argument
    add(
        "part",
        nargs="*",
        metavar="PART",
        default=PARTS,
        help=f"{', '.join(PARTS)}; all by default. {CLUSTER}, only if asked for",
    )
    add("--rows", type=int, default=1_000_000, help="table, cluster: rows of the month (%(default)s)")
    add(
        "--clients",
        type=int,
        default=1_000_000,
        help="customers, features, pairs, cluster: each with 5 activities (%(default)s)",
    )
    add("--pairs", type=int, default=1_000_000, help="pairs, cluster: pairs of a client and a day (%(default)s)")
    add("--rounds", type=int, default=3, help="all but history and catchup: runs of each contender (%(default)s)")
    add("--months", type=int, default=121, help="history: months (%(default)s)")
    add("--month-rows", type=int, default=200_000, help="history: rows of each month (%(default)s)")
    add("--baseline", type=Path, metavar="FOLDER", help="table, customers, features: checkout of another revision")
    add("--peers-python", metavar="FILE", help="interpreter with bench/requirements.txt; without it there are no peers")
    add("--feast-python", metavar="FILE", help="pairs: interpreter with feast[postgres], which needs an older pandas")
    options = parser.parse_args()
    if unknown := set(options.part) - {*PARTS, CLUSTER}:
        parser.error(f"there is no part {', '.join(unknown)}")
    checkouts = {"ours": ROOT} | ({"baseline": options.baseline.resolve()} if options.baseline else {})
    peers = options.peers_python if options.rows <= MAX_ROWS_OF_PEERS else None
    work = {
        "table": lambda server: sales.run_table(server, options.rows, options.rounds, checkouts, peers),
        "history": lambda server: sales.run_history(server, options.months, options.month_rows),
        "customers": lambda server: customers.run_loads(server, options.clients, options.rounds, checkouts),
        "features": lambda server: customers.run_features(server, options.clients, options.rounds, checkouts),
        "pairs": lambda server: pairs.run(
            server, options.clients, options.pairs, options.rounds, options.peers_python, options.feast_python
        ),
        "catchup": catchup.run,
    }
    RESULTS.mkdir(exist_ok=True)
    try:
        for part in options.part:
            print(f"\n{part}", flush=True)
            if part == PLOT:
                draw(options.peers_python)
                continue
            if part == CLUSTER:
                found = cluster.run(options.rows, options.clients, options.pairs, options.rounds)
            else:
                with Server.started() as server:
                    found = work[part](server)
            (RESULTS / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
    except (BenchError, ClusterError) as error:
        sys.exit(f"error: {error}")


def draw(python: str | None) -> None:
    """Draw the picture of what was measured, if there is an interpreter with bench/requirements.txt."""
    if python and (results := RESULTS / "table.json").exists():
        call([python, "-m", "bench.draw", str(results)])


if __name__ == "__main__":
    main()
