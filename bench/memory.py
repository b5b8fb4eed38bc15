"""How much memory the loader takes for small and for large files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.contenders import MONTH, ours_first
from bench.files import bucket, warm, write_sales, write_stores
from bench.server import started_server
from bench.table import measure
from bench.text import MB, print_table


def run(settings: Mapping[str, str], sizes: Sequence[int]) -> dict[str, Any]:
    """Load a month of each size, each in a process of its own."""
    found = []
    with started_server(settings) as server, tempfile.TemporaryDirectory(prefix="bench-") as place:
        folder = Path(place) / "bucket"
        path = f"sales/{MONTH}/sales.csv"
        for rows in sizes:
            month = write_sales(folder / path, MONTH, rows)
            write_stores(folder)
            # A server for each file: it would not notice that the file has changed within the clock's last tick.
            with bucket(folder, Path(place) / "certificates") as addresses:
                warm(addresses, path)
                answer = measure(server, ours_first(server, addresses), month)
            found.append({"rows": rows, "file_bytes": (folder / path).stat().st_size, **answer})
    print("\nMemory of the loader's process\n")
    print_table(
        ["rows", "file MB", "MB before", "peak MB", "difference MB", "seconds"],
        [
            [
                f"{one['rows']:,}",
                f"{one['file_bytes'] / MB:.0f}",
                f"{one['before_bytes'] / MB:.1f}",
                f"{one['peak_bytes'] / MB:.1f}",
                f"{(one['peak_bytes'] - one['before_bytes']) / MB:.1f}",
                f"{one['seconds']:.2f}",
            ]
            for one in found
        ],
    )
    return {"runs": found}
