"""The only Python that moves data: one CSV file over HTTPS into one staging table."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import chain
from typing import Any

import psycopg
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowTaskTimeout
from psycopg import sql

from company_data.csv_text import TextCheck, match_columns, refused, split_header, without_blank_end
from company_data.errors import FileRefused, SourceUnavailable
from company_data.ledger import Load
from company_data.retries import LATE_FOR, STAGING_RETRIES, LoadRetryPolicy
from company_data.settings import CONNECTION_ID, CONNECTION_OPTIONS, source_base_url
from company_data.source import KEPT, TRIED_AGAIN, open_file, without_credentials

log = logging.getLogger(__name__)

# Up to PostgreSQL 17 a line of \. ends a COPY of CSV too, and what follows is dropped without a word.
END_OF_COPY = re.compile(rb"[\r\n]\\\.[\r\n]")
END_OF_COPY_IS_DATA = 180_000


@task(do_xcom_push=True, retries=STAGING_RETRIES, retry_policy=LoadRetryPolicy(STAGING_RETRIES, late_for=LATE_FOR))
def stage_csv(path: str, table: str, sale_month: str | None = None) -> int:
    """Replace a staging table with a source file.

    Args:
        path: the file's path below SOURCE_BASE_URL.
        table: the table in schema staging.
        sale_month: for a table that is staged a month apart, the first day of the month (YYYY-MM-DD).

    Returns:
        The load in pipeline.file_loads, by which the steps that follow know what to check and to publish.

    Raises:
        FileRefused: the file breaks the contract; a retry would find the same.
        SourceUnavailable: the network or the source failed, or the file may be late.
        psycopg.Error: the database failed.
    """
    run = get_current_context()["dag_run"]
    load = Load(
        table_name=table,
        sale_month=sale_month,
        address=without_credentials(f"{source_base_url()}/{path}"),
        dag_run=f"{run.dag_id} {run.run_id}",
    )
    # Of the files, only those that are named by their month can be late.
    late_until = end_of_month(sale_month) + LATE_FOR if sale_month and sale_month in path else None
    options = f"{CONNECTION_OPTIONS} -c application_name={run.dag_id}.stage_{table}"
    hook = PostgresHook(CONNECTION_ID, options=options)
    try:
        with hook.get_conn() as connection:
            prepare(connection, load)
            connection.commit()
            return stage(connection, load, path, late_until)
    except AirflowTaskTimeout:
        error = SourceUnavailable(
            f"{load.address}: the file was not whole when the task's time was over. {KEPT} {TRIED_AGAIN}"
        )
        record_failure(hook, load, error)
        raise error from None
    except Exception as error:
        record_failure(hook, load, error)
        raise


def prepare(connection: psycopg.Connection[Any], load: Load) -> None:
    """Make what the month lacks in schema staging, in a transaction of its own: months wait for each other in it."""
    if load.sale_month:
        connection.execute("select pipeline.prepare_month(%s)", [load.sale_month])


def stage(connection: psycopg.Connection[Any], load: Load, path: str, late_until: datetime | None) -> int:
    """Copy the file into an empty staging table, and note the load, in one transaction.

    Args:
        connection: to the operational database; committed or rolled back by whoever opened it.
        load: the load, begun.
        path: the file's path below SOURCE_BASE_URL.
        late_until: moment until which the file may be missing because it is late.

    Returns:
        The load's number in the ledger.

    Raises:
        FileRefused, SourceUnavailable, psycopg.Error: as of stage_csv.
    """
    place = [load.table_name, load.sale_month]
    # Before the file is asked for: of two runs that stage the same table the later one then has the newer file.
    [(table,)] = connection.execute("select pipeline.begin_staging(%s, %s)", place).fetchall()
    with open_file(f"{source_base_url()}/{path}", late_until) as download:
        load.begin(connection)
        rows = copy_file(connection, load.table_name, table, download.chunks(), path)
        connection.execute("select pipeline.end_staging(%s, %s)", place)
        number = load.record_staged(connection, download, rows)
    log.info("%s: staged %s rows into staging.%s, load %s", load.address, f"{rows:,}", load.table_name, number)
    log.info("%s bytes, SHA-256 %s, ETag %s", f"{download.bytes:,}", download.sha256.hexdigest(), download.etag)
    if rows == 0:
        log.warning("%s has a header and no rows: it is loaded as empty.", load.address)
    return number


def record_failure(hook: PostgresHook, load: Load, error: Exception) -> None:
    """Note in the ledger that nothing was staged; where the database cannot be reached, the task's log must do."""
    try:
        with hook.get_conn() as connection:
            load.record_failure(connection, error)
    except psycopg.Error as unrecorded:
        log.warning("The failure is not in pipeline.file_loads: %s", unrecorded)


def copy_file(connection: psycopg.Connection[Any], of: str, table: str, text: Iterator[bytes], path: str) -> int:
    """Copy a file into a staging table that this transaction has made or emptied, so that its rows come frozen.

    The header goes to COPY with the rest, so that the line numbers in PostgreSQL's messages are the file's.

    Args:
        connection: to the operational database.
        of: the table in public that the file is for; its namesake in schema staging says which columns the file has.
        table: the table in schema staging to copy into.
        text: the file, in pieces of any size.
        path: the file's name, for messages.

    Returns:
        The number of rows copied.

    Raises:
        FileRefused: the text is no CSV, its header does not match the table, or a value does not parse.
    """
    header, line_end, chunks = split_header(text, path)
    expected = file_columns(connection, of)
    columns = match_columns(header, list(expected), path, of)
    chunks = without_blank_end(TextCheck(path, columns, line_end).pass_on(chunks))
    if connection.info.server_version < END_OF_COPY_IS_DATA:
        chunks = _without_end_of_copy(chunks, path)
    # Programs that quote everything write a missing number as "", which only a text can be.
    numbers = [name for name in columns if not expected[name]]
    copy = sql.SQL(
        "copy {} ({}) from stdin with (format csv, header true, freeze true, encoding 'utf8', force_null ({}))"
    ).format(
        sql.Identifier("staging", table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(map(sql.Identifier, numbers)),
    )
    with connection.cursor() as cursor:
        try:
            with cursor.copy(copy) as stream:
                for chunk in chunks:
                    stream.write(chunk)
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded) as error:
            raise refused_by_copy(error, path) from error
        return cursor.rowcount


def refused_by_copy(error: psycopg.Error, path: str) -> FileRefused:
    """PostgreSQL's complaint about a line of a file, in our words: its context names the line, and maybe the column."""
    problem = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name:
        problem = f"the row is not {error.diag.constraint_name}"
    context = re.match(r'COPY \w+, line (\d+)(?:, column ("[^"]*"|[^:]+))?(?:: (.*))?$', error.diag.context or "", re.S)
    if not context:
        return refused(path, 1, f"{problem} ({error.diag.context or error.diag.message_detail})")
    line, column, value = context.groups()
    if value and value not in problem:
        problem = f"{problem} (found {value})"
    return refused(path, int(line), problem, column or error.diag.column_name)


def file_columns(connection: psycopg.Connection[Any], table: str) -> dict[str, bool]:
    """Columns of a staging table that its file has, which is all but that of the month; and whether each is text."""
    rows = connection.execute(
        """
        select attname, atttypid = 'text'::regtype
        from pg_catalog.pg_attribute
        where attrelid = %s::regclass and attnum > 0 and not attisdropped and attname <> 'sale_month'
        order by attnum
        """,
        [f"staging.{table}"],
    ).fetchall()
    return dict(rows)


def end_of_month(first_day: str) -> datetime:
    """The moment, in UTC, at which the month that begins on this day (YYYY-MM-DD) is over."""
    first = datetime.fromisoformat(first_day).replace(tzinfo=timezone.utc)
    return (first + timedelta(days=32)).replace(day=1)


def _without_end_of_copy(chunks: Iterator[bytes], path: str) -> Iterator[bytes]:
    line, tail = 0, b"\n"
    for chunk in chain(chunks, [b""]):
        text = tail + (chunk or b"\n")
        if found := END_OF_COPY.search(text):
            line += text.count(b"\n", 0, found.start() + 1) - tail.count(b"\n") + 1
            raise refused(path, line, r"it holds nothing but \., which this version of PostgreSQL takes for the end")
        line += chunk.count(b"\n")
        tail = (tail + chunk)[-3:]
        yield chunk
