"""dlt with Arrow tables from pyarrow's CSV reader, which it writes as Parquet and sends through ADBC.

The fastest of the ways that were tried: CSV in place of Parquet takes nearly twice as long.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import dlt  # type: ignore[import-not-found]
import pyarrow as pa  # type: ignore[import-not-found]
from pyarrow import csv

from bench.answer import answer

# dlt handles each block apart.
BLOCK_BYTES = 1 << 26


def main(url: str, file: str, schema: str, table: str) -> None:
    """Load the file into a new table for each line of input."""

    def load(tables: Iterable[Any], target: str) -> None:
        with tempfile.TemporaryDirectory(prefix="bench-dlt-") as folder:
            pipeline = dlt.pipeline(
                "bench", pipelines_dir=folder, destination=dlt.destinations.postgres(url), dataset_name=target
            )
            resource = dlt.resource(tables, name=table, write_disposition="replace")
            pipeline.run(resource, loader_file_format="parquet")

    def work(_line: str) -> dict[str, object]:
        load(_read(file), schema)
        return {}

    # Imports what it only imports when it loads.
    load(iter([pa.table({"idx": [1]})]), "warm")
    answer(work)


def _read(file: str) -> Iterator[Any]:
    with csv.open_csv(file, read_options=csv.ReadOptions(block_size=BLOCK_BYTES)) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


if __name__ == "__main__":
    main(*sys.argv[1:])
