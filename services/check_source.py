"""What the source has, and whether its files fit the tables, by their first rows. Nothing is written."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import date
from importlib import import_module
from typing import Any

import psycopg
from psycopg import sql

from services import use_workflows
from services.status import NONE_DUE, months_due

SOURCES = "select table_name, is_monthly, date_column from pipeline.sources order by place"
IN_MONTH = sql.SQL(
    'alter table pg_temp.first_rows add constraint "the date is in the month of the file"'
    " check ({column} >= {month} and {column} < {month}::date + interval '1 month')"
)


def check_source(address: str, months: Sequence[date]) -> bool:
    """Print what the source has of each kind of file, and whether the first rows fit the table; returns whether all do.

    Args:
        address: a migrated database, whose staging tables state what a file must look like.
        months: first days of the months to ask for, one by one: not every bucket may be listed.

    Raises:
        SourceUnavailable: the network or the source failed.
    """
    use_workflows()
    from company_data.errors import FileRejected
    from company_data.settings import CONNECTION_OPTIONS
    from company_data.staging import has_file

    fits = True
    with psycopg.connect(address, options=CONNECTION_OPTIONS, autocommit=True) as connection:
        for table, is_monthly, date_column in connection.execute(SOURCES).fetchall():
            files: list[date | None] = [None]
            if is_monthly and not months:
                print(f"{table:<18} {NONE_DUE}")
                continue
            if is_monthly:
                found = [
                    next((month for month in order if has_file(connection, table, str(month))), None)
                    for order in (months, months[::-1])
                ]
                files = list(dict.fromkeys(found))
                if None in files:
                    print(f"{table:<18} the source has no month from {months[0]:%Y-%m} to {months[-1]:%Y-%m}")
                    fits = False
                    continue
                print(f"{table:<18} the first month is {found[0]:%Y-%m}, the newest {found[1]:%Y-%m}")
            for month in files:
                try:
                    rows, rest = check_first_rows(connection, table, month, date_column)
                    print(f"{table:<18} {f'{month:%Y-%m}: ' if month else ''}{rest} {rows:,} rows fit")
                except FileRejected as error:
                    print(f"{table:<18} would be rejected: {error}")
                    fits = False
    return fits


def check_first_rows(
    connection: psycopg.Connection[Any], table: str, month: date | None, date_column: str
) -> tuple[int, str]:
    """Copy the first rows of a file into a table like that of a load, and roll it back.

    Returns:
        The number of rows, and whether they are all of the file.

    Raises:
        FileRejected: the header or a row does not fit.
        SourceUnavailable: the network or the source failed.
    """
    from company_data.settings import source_url
    from company_data.source import open_file
    from company_data.staging import copy_file, file_path, optional_columns

    file_month = str(month) if month else None
    path = file_path(connection, table, file_month)
    with open_file(source_url(path)) as download:
        chunks = download.chunks()
        start, is_whole = next(chunks, b""), next(chunks, None) is None
    if not is_whole:
        start = start[: max(start.rfind(b"\n"), start.rfind(b"\r")) + 1]
    with connection.transaction(force_rollback=True):
        connection.execute(
            sql.SQL("create temporary table first_rows (like staging.{} including all)").format(sql.Identifier(table))
        )
        if month:
            connection.execute(IN_MONTH.format(column=sql.Identifier(date_column), month=sql.Literal(month)))
        optional = optional_columns(connection, table, file_month)
        rows = copy_file(connection, sql.Identifier("pg_temp", "first_rows"), iter([start]), path, optional)
    return rows, "all" if is_whole else "the header and the first"


def main() -> int:
    """Check the source with the database of AIRFLOW_CONN_OPERATIONAL_DB; returns the exit status."""
    from airflow.sdk.exceptions import AirflowException

    try:
        use_workflows()
        import_module("company_data.settings")  # which reads the file of the settings, if there is one
        return 0 if check_source(os.environ["AIRFLOW_CONN_OPERATIONAL_DB"], months_due(os.environ)) else 1
    except (AirflowException, psycopg.Error, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
