"""Draws the results: ratios of the main table, and the cost of a month against the months that are there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found]
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter  # type: ignore[import-not-found]

OURS, OTHER, SECOND = "#1f6fb4", "#b9bec6", "#d98032"
INCHES, DPI = (9, 4.5), 100


def main(kind: str, results: str, picture: str) -> None:
    """Draw one picture of one file of results."""
    mpl.use("agg")
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    found = json.loads(Path(results).read_text())
    figure, axes = plt.subplots(figsize=INCHES, dpi=DPI, layout="constrained")
    {"ratios": _ratios, "history": _history}[kind](axes, found)
    figure.savefig(picture, facecolor="white", pil_kwargs={"optimize": True})


def _ratios(axes: Any, found: dict[str, Any]) -> None:
    labels = found["labels"]
    ratios = {name: median(run["ratio"] for run in found["runs"] if run["contender"] == name) for name in labels}
    names = list(labels)[::-1]
    bars = axes.barh(
        [labels[name] for name in names],
        [ratios[name] for name in names],
        color=[OURS if name.startswith("ours") else OTHER for name in names],
    )
    axes.bar_label(bars, [f"{ratios[name]:.2f}" for name in names], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(ratios.values()) / 1.3, max(ratios.values()) * 1.6)
    axes.axvline(1, color="#444444", linewidth=0.8)
    ticks = [
        tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time, as a multiple of \\copy into a table with an index on date (median; logarithmic)")
    axes.set_title(f"Loading a month of {found['rows']:,} sales\n{_machine(found)}", loc="left", fontsize=10)


def _history(axes: Any, found: dict[str, Any]) -> None:
    for name, color in (("unindexed", OTHER), ("indexed", SECOND), ("companydata", OURS)):
        loads = [load for load in found["loads"] if load["contender"] == name]
        axes.plot(
            [load["month"] - 1 for load in loads],
            [load["seconds"] for load in loads],
            color=color,
            label=found["labels"][name],
            linewidth=1.5,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("months that are loaded already")
    axes.set_ylabel("seconds")
    axes.legend(frameon=False, reverse=True)
    axes.set_title(f"Loading one more month of {found['rows']:,} sales\n{_machine(found)}", loc="left", fontsize=10)


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, PostgreSQL {machine['postgresql']}"


if __name__ == "__main__":
    main(*sys.argv[1:])
