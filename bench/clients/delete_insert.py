"""The literal delete-insert: COPY into staging, delete the month from sales, insert it, aggregate it by store."""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg

from bench.answer import answer

CHUNK_BYTES = 1 << 18

MONTH = "date >= %(month)s::date and date < (%(month)s::date + interval '1 month')::date"
DELETE_MONTH = f"delete from {{schema}}.sales where {MONTH}"  # noqa: S608 - constants of this file
INSERT_MONTH = f"insert into {{schema}}.sales select * from {{schema}}.staging where {MONTH}"  # noqa: S608
DELETE_SUMS = "delete from {schema}.monthly_sales where sale_month = %(month)s::date"
INSERT_SUMS = f"""
    insert into {{schema}}.monthly_sales (store_idx, sale_month, value)
    select store_idx, %(month)s::date, sum(value)
    from {{schema}}.sales
    where {MONTH}
    group by store_idx
"""  # noqa: S608


def main(url: str, schema: str, bucket: str) -> None:
    """For each line of input load the file of that month."""

    def work(month: str) -> dict[str, object]:
        file = Path(bucket) / "sales" / month / "sales.csv"
        with psycopg.connect(url, autocommit=True) as connection:
            with connection.transaction():
                connection.execute(f"truncate {schema}.staging".encode())
                copy = f"copy {schema}.staging from stdin (format csv, header true)"
                with connection.cursor().copy(copy.encode()) as stream, file.open("rb") as source:
                    while chunk := source.read(CHUNK_BYTES):
                        stream.write(chunk)
            for statements in ((DELETE_MONTH, INSERT_MONTH), (DELETE_SUMS, INSERT_SUMS)):
                with connection.transaction():
                    for statement in statements:
                        connection.execute(statement.format(schema=schema).encode(), {"month": month})
        return {}

    answer(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
