"""dlt with its own reader of CSV files, as its documentation loads them: rows go through Python."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dlt  # type: ignore[import-not-found]
from dlt.sources.filesystem import filesystem, read_csv  # type: ignore[import-not-found]

from bench.answer import answer


def main(url: str, file: str, schema: str, table: str) -> None:
    """Load the file into a new table for each line of input."""

    def load(path: Path, target: str) -> None:
        with tempfile.TemporaryDirectory(prefix="bench-dlt-") as folder:
            pipeline = dlt.pipeline(
                "bench", pipelines_dir=folder, destination=dlt.destinations.postgres(url), dataset_name=target
            )
            files = filesystem(bucket_url=path.parent.as_uri(), file_glob=path.name)
            rows = (files | read_csv()).with_name(table)
            pipeline.run(rows, write_disposition="replace")

    def work(_line: str) -> dict[str, object]:
        load(Path(file), schema)
        return {}

    # Imports what it only imports when it loads.
    with tempfile.TemporaryDirectory(prefix="bench-dlt-") as folder:
        small = Path(folder) / "warm.csv"
        small.write_text("idx,value,date,store_idx\n1,1.5,2024-02-01,1\n")
        load(small, "warm_csv")
    answer(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
