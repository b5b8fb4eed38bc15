"""The main table: one month, loaded by all contenders in turn, round by round."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import COPY, MONTH, OURS_AGAIN, OURS_FIRST, Contender, all_groups, check, prepare
from bench.files import Month, bucket, warm, write_sales, write_stores
from bench.machine import describe, show
from bench.processes import Answer, started
from bench.server import DURABLE, Server, measured, started_server
from bench.text import MB, print_table, spread


def run(settings: Mapping[str, str], rows: int, rounds: int, peers_python: str | None) -> dict[str, Any]:
    """Measure, print and return everything."""
    with started_server(settings) as server, tempfile.TemporaryDirectory(prefix="bench-") as place:
        machine = describe(server.connection, DURABLE)
        show(machine)
        folder = Path(place) / "bucket"
        path = f"sales/{MONTH}/sales.csv"
        month = write_sales(folder / path, MONTH, rows)
        write_stores(folder)
        print(f"{rows:,} rows, {(folder / path).stat().st_size / MB:.1f} MB, {rounds} rounds\n", flush=True)
        with bucket(folder, Path(place) / "certificates") as addresses:
            warm(addresses, path)
            groups = all_groups(server, folder, addresses, peers_python)
            # One that does not count: it makes the first WAL files, which all later ones use again.
            measure(server, groups[0][0], month)
            runs = [run for number in range(rounds) for run in _round(server, groups, month, number)]
    labels = {contender.name: contender.label for group in groups for contender in group}
    print_runs(runs, labels)
    return {"machine": machine, "rows": rows, "rounds": rounds, "labels": labels, "runs": runs}


def measure(server: Server, contender: Contender, month: Month) -> Answer:
    """One load by one contender, checked."""
    prepare(server, contender)
    with started(contender.command, contender.environment) as ask:
        answer = measured(server, lambda: ask(contender.line))
    check(server, contender, month)
    return answer


def _round(server: Server, groups: list[list[Contender]], month: Month, number: int) -> list[Answer]:
    # Everybody begins a round once, so that no one always comes after the same one.
    start = number % len(groups)
    runs = []
    for contender in [contender for group in groups[start:] + groups[:start] for contender in group]:
        answer = measure(server, contender, month)
        print(f"round {number + 1}: {contender.label}: {answer['seconds']:.2f} s", flush=True)
        runs.append({"contender": contender.name, "round": number + 1, **answer})
    [yardstick] = [run["seconds"] for run in runs if run["contender"] == COPY]
    return [{**run, "ratio": run["seconds"] / yardstick} for run in runs]


def print_runs(runs: list[Answer], labels: Mapping[str, str]) -> None:
    """Print the table, and where ours spends its time."""
    lines = []
    for name, label in labels.items():
        own = [run for run in runs if run["contender"] == name]
        column = {key: [run[key] for run in own] for key in own[0] if key != "parts"}
        lines.append(
            [
                label,
                spread(column["seconds"]),
                spread(column["ratio"]),
                f"{median(column['cpu_seconds']):.2f}",
                f"{median(column['wal_bytes']) / MB:.1f}",
                f"{median(column['peak_bytes']) / MB:.0f}",
                f"{median(column['before_bytes']) / MB:.0f}",
            ]
        )
    print("\nMedian (range). Time and memory are the client's without its start; CPU and WAL are the server's.\n")
    print_table(["", "seconds", "times \\copy", "CPU s", "WAL MB", "peak MB", "MB before"], lines)
    for name in (OURS_FIRST, OURS_AGAIN):
        parts = [run["parts"] for run in runs if run["contender"] == name]
        print(f"\n{labels[name]}, seconds of its steps:")
        for part in parts[0]:
            print(f"  {spread([seconds[part] for seconds in parts], 3)}  {part}", flush=True)
