"""Command line of the benchmark: `python -m bench`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import catchup, features, history, memory, plot, table
from bench.processes import ROOT, BenchError
from local.postgres import ClusterError

RESULTS = ROOT / "bench" / "results"
MOST_ROWS_OF_PEERS = 1_000_000

PARTS = """
parts:
  table     one month, loaded by every contender in turn; the ratios are to \\copy in the same round
  history   the last month of many against the first, one month again and again, and what that leaves on disk
  memory    the loader's memory for a small and a large file
  features  the feature store against a literal delete-insert
  catchup   many small months through the scheduler of `make up`
  plot      bench/ratios.png and bench/history.png, from the results
Without a part: table, history, features, catchup, plot. Results are kept as JSON in bench/results/.
"""


def main() -> int:
    """Run what the command line asks for."""
    options = _options()
    everything = options.part is None
    settings = dict(options.setting)
    peers = options.peers_python
    table_file, history_file = RESULTS / f"{options.rows}.json", RESULTS / "history.json"
    try:
        if everything or options.part == "table":
            measured_peers = peers if options.peers or options.rows <= MOST_ROWS_OF_PEERS else None
            _keep(table_file, table.run(settings, options.rows, options.rounds, measured_peers))
        if everything or options.part == "history":
            _keep(history_file, history.run(settings, options.months, options.month_rows))
        if options.part == "memory":
            _keep(RESULTS / "memory.json", memory.run(settings, options.sizes))
        if everything or options.part == "features":
            _keep(RESULTS / "features.json", features.run(settings, options.clients, options.rounds))
        if everything or options.part == "catchup":
            _keep(RESULTS / "catchup.json", catchup.run(options.catchup_months))
        if options.part == "plot" or (everything and peers):
            if not peers:
                raise BenchError("plot needs --peers-python: matplotlib is in bench/requirements.txt.")
            plot.draw(peers, table_file, history_file)
    except (BenchError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog=PARTS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=["table", "history", "memory", "features", "catchup", "plot"])
    add = parser.add_argument
    add("--rows", type=int, default=1_000_000, help="table: rows of the month (%(default)s)")
    add("--rounds", type=int, default=3, help="table, features: how often each contender runs (%(default)s)")
    add("--peers-python", metavar="FILE", help="interpreter with bench/requirements.txt; without it there are no peers")
    add("--peers", action="store_true", help=f"table: peers also for more than {MOST_ROWS_OF_PEERS} rows")
    add("--setting", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    add("--months", type=int, default=121, help="history: how many (%(default)s)")
    add("--month-rows", type=int, default=200_000, help="history: rows of each month (%(default)s)")
    add("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000], help="memory: rows of the files (%(default)s)")
    add("--clients", type=int, default=1_000_000, help="features: how many, each with five activities (%(default)s)")
    add("--catchup-months", type=int, default=24, help="catchup: how many (%(default)s)")
    return parser.parse_args()


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _keep(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nkept in {file.relative_to(ROOT)}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
