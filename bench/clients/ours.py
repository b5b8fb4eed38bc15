"""The workflows' own steps: the code in dags/ and the files in sql/, run as tests/steps.py runs them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import steps
from conftest import Database

from bench.answer import answer
from bench.clients import FEATURES
from local.postgres import Cluster


def timed(parts: dict[str, float], step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, which now also notes its seconds under the name of what it loads or runs."""

    def run(database: Database, *what: str, **parameters: object) -> Any:
        begin = time.perf_counter()
        done = step(database, *what, **parameters)
        names = [Path(name).stem for name in what if not name[:1].isdigit()]
        name = f"{step.__name__} {' + '.join(dict.fromkeys(names))}"
        parts[name] = parts.get(name, 0) + time.perf_counter() - begin
        return done

    return run


def main(home: str, port: str, name: str) -> None:
    """For each line of input load that month, or build the feature store."""
    database = Database(Cluster(Path(home), int(port)), name)
    parts: dict[str, float] = {}
    for step in (steps.stage_file, steps.run_on):
        setattr(steps, step.__name__, timed(parts, step))

    def work(line: str) -> dict[str, object]:
        parts.clear()
        if line == FEATURES:
            steps.build_feature_store(database)
        else:
            steps.load_month(database, line)
        return {"parts": dict(parts)}

    answer(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
