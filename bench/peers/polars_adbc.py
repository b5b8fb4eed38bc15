"""polars reads the file, ADBC writes it."""

from __future__ import annotations

import sys

import polars as pl  # type: ignore[import-not-found]

from bench.answer import answer


def main(url: str, file: str, table: str) -> None:
    """Load the file into a new table for each line of input."""

    def write(sales: pl.DataFrame, target: str) -> None:
        sales.write_database(target, url, engine="adbc", if_table_exists="replace")

    def work(_line: str) -> dict[str, object]:
        write(pl.read_csv(file, try_parse_dates=True), table)
        return {}

    # Imports what it only imports when it writes.
    write(pl.DataFrame({"idx": [1]}), "public.warm")
    answer(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
