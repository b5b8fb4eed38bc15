"""Other ways to load a CSV file. Runs in the interpreter that has bench/requirements.txt."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.answer import answer


def polars_adbc(url: str, file: str) -> None:
    """Polars reads the file, ADBC writes it."""
    import polars as pl  # type: ignore[import-not-found]

    pl.read_csv(file, try_parse_dates=True).write_database("bench.sales", url, engine="adbc", if_table_exists="replace")


def pandas_to_sql(url: str, file: str) -> None:
    """Pandas reads the file, to_sql writes it; method="multi" takes three times as long."""
    import pandas as pd  # type: ignore[import-untyped]
    import sqlalchemy

    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
    sales = pd.read_csv(file, parse_dates=["date"])
    sales.to_sql("sales", engine, schema="bench", chunksize=10_000, if_exists="replace", index=False)
    engine.dispose()


def dlt_arrow_adbc(url: str, file: str) -> None:
    """Dlt with Arrow tables, which it writes as Parquet and sends through ADBC; CSV takes nearly twice as long."""
    from pyarrow import Table, csv  # type: ignore[import-not-found]

    def read() -> Iterator[Any]:
        with csv.open_csv(file, read_options=csv.ReadOptions(block_size=1 << 26)) as reader:
            for batch in reader:
                yield Table.from_batches([batch])

    _run_dlt(url, read(), loader_file_format="parquet")


def dlt_read_csv(url: str, file: str) -> None:
    """Dlt with its own reader of CSV files, as its documentation loads them: rows go through Python."""
    from dlt.sources.filesystem import filesystem, read_csv  # type: ignore[import-not-found]

    _run_dlt(url, filesystem(bucket_url=Path(file).parent.as_uri(), file_glob=Path(file).name) | read_csv())


def _run_dlt(url: str, rows: Any, **options: str) -> None:
    import dlt  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory(prefix="bench-dlt-") as folder:
        to = dlt.destinations.postgres(url)
        pipeline = dlt.pipeline("bench", pipelines_dir=folder, destination=to, dataset_name="bench")
        pipeline.run(rows, table_name="sales", write_disposition="replace", **options)


def frame_of_pairs(url: str, file: str) -> dict[str, object]:
    """Not a peer: the features of a frame of pairs, as examples/train_classifier.py gets them."""
    import io

    import pandas as pd
    import psycopg

    pairs = pd.read_csv(file)
    if "day" not in pairs:
        return {}
    arrays = ["{" + ",".join(pairs[column].astype(str)) + "}" for column in ("idx", "day")]
    of_pairs = "select day, (features).* from public.feature_store_at(%s::integer[], %s::date[])"
    query = f"copy ({of_pairs}) to stdout (format csv, header)"
    text = io.BytesIO()
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(query, arrays) as rows:
        text.writelines(rows)
    text.seek(0)
    features = pd.read_csv(text, parse_dates=["day"], keep_default_na=False, na_values=[""])
    if not (features.idx == pairs.idx).all():
        raise RuntimeError("The features are not in the order of the pairs.")
    return {"known": int(features.label.notna().sum()), "sum_of_scd_a": float(features.scd_a.sum())}


def main(peer: str, url: str, file: str) -> None:
    """Load the file into a new table with the function of that name, for each line of input."""
    load = globals()[peer]
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as small:
        small.write("idx,value,date,store_idx\n1,1.5,2024-02-01,1\n")
        small.flush()
        load(url, small.name)  # imports everything; the table is replaced
    answer(lambda _: load(url, file) or {})


if __name__ == "__main__":
    main(*sys.argv[1:])
