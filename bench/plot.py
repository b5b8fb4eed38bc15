"""Has the two pictures drawn, in the interpreter that has matplotlib."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.contenders import module
from bench.processes import ROOT, BenchError

FOLDER = ROOT / "bench"
RATIOS, HISTORY = FOLDER / "ratios.png", FOLDER / "history.png"


def draw(peers_python: str, table: Path, history: Path) -> None:
    """Draw what there are results for.

    Raises:
        BenchError: there are none, or they could not be drawn.
    """
    wanted = [
        (kind, results, picture)
        for kind, results, picture in (("ratios", table, RATIOS), ("history", history, HISTORY))
        if results.exists()
    ]
    if not wanted:
        raise BenchError(f"there is neither {table} nor {history}: measure first.")
    for kind, results, picture in wanted:
        command = module("peers.draw", kind, str(results), str(picture), python=peers_python)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size / 1000:.0f} KB", flush=True)
