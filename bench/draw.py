"""Draws bench/ratios.png. Runs in the interpreter that has bench/requirements.txt."""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import pyplot as plt  # type: ignore[import-not-found]

OURS, OTHER = "#1f6fb4", "#b9bec6"


def ratios(axes: Any, found: dict[str, Any]) -> str:
    """Bars for the contenders of one month; returns the title."""
    runs = found["runs"]
    labels = list(dict.fromkeys(run["contender"] for run in runs))[::-1]
    values = [median(run["ratio"] for run in runs if run["contender"] == label) for label in labels]
    bars = axes.barh(labels, values, color=[OURS if label.startswith("ours") else OTHER for label in labels])
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=4)
    axes.axvline(1, color="#444444", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 1.3, max(values) * 1.6)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("time, as a multiple of \\copy into a table with an index on date (median; logarithmic)")
    return f"Loading a month of {found['rows']:,} sales"


def main(results: str) -> None:
    """Draw the picture of the results of the part table."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    found = json.loads(Path(results).read_text())
    figure, axes = plt.subplots(figsize=(9, 4.5), dpi=100, layout="constrained")
    axes.set_title(f"{ratios(axes, found)}\n{found['machine']}", loc="left", fontsize=10)
    figure.savefig(Path(__file__).with_name("ratios.png"), facecolor="white", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main(*sys.argv[1:])
