"""The only Python that moves data: one CSV file over HTTPS into one staging table."""

import csv
import io
import logging
from collections.abc import Iterator, Sequence

import requests
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException
from psycopg import Connection, DataError, IntegrityError, sql

from company_data.settings import CONNECTION_ID, source_base_url

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
LONGEST_HEADER_BYTES = 1 << 16
CONNECT_SECONDS, READ_SECONDS = 10, 60
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FileRefused(AirflowFailException):
    """The file, or where it comes from, breaks the contract: a retry would find the same."""


@task(do_xcom_push=True)
def stage_csv(path: str, table: str, sale_month: str | None = None) -> int:
    """Replace a staging table with a source file.

    Args:
        path: the file's path below SOURCE_BASE_URL.
        table: the table in schema staging.
        sale_month: for a table that is staged a month apart, the first day of the month (YYYY-MM-DD).

    Returns:
        The number of rows in the file, which publishing compares with what staging holds by then.

    Raises:
        FileRefused: a plain-http address, a header that does not match the table, or a value that
            does not parse.
        requests.RequestException: the file could not be fetched whole.
    """
    url = f"{source_base_url()}/{path}"
    partition = f"{table}_{sale_month[:7].replace('-', '_')}" if sale_month else table
    with PostgresHook(CONNECTION_ID).get_conn() as connection, open_url(url) as response:
        rows = replace_rows(connection, partition, response.iter_content(CHUNK_BYTES), path)
    log.info("%s: staged %s rows into staging.%s", url, f"{rows:,}", partition)
    return rows


def open_url(url: str) -> requests.Response:
    """Start a download, over HTTPS alone: a redirect to plain http is refused too.

    Raises:
        FileRefused: the address, or one that it redirects to, is not https.
        requests.RequestException: no connection, or a status other than success.
    """
    session = requests.Session()
    session.adapters.pop("http://")
    try:
        response = session.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
    except requests.exceptions.InvalidSchema as error:
        raise FileRefused(
            f"{url}: only https is read, and this is not, or redirects to what is not ({error}). "
            f"Nothing was loaded. Correct SOURCE_BASE_URL, or the redirect."
        ) from None
    response.raise_for_status()
    return response


def replace_rows(connection: Connection, table: str, chunks: Iterator[bytes], path: str) -> int:
    """Empty a staging table and copy a CSV file into it, in one transaction.

    The header goes to COPY with the rest, so that the line numbers in PostgreSQL's messages are the file's.

    Args:
        connection: to the operational database; committed by whoever opened it.
        table: the table in schema staging; columns with a default are not expected in the file.
        chunks: the file's bytes.
        path: the file's name, for messages.

    Returns:
        The number of rows copied.

    Raises:
        FileRefused: the header does not match the table's columns, or a value does not parse.
    """
    header, chunks = split_header(chunks, path)
    columns = match_columns(header, file_columns(connection, table), path, table)
    target = sql.Identifier("staging", table)
    copy = sql.SQL("copy {} ({}) from stdin with (format csv, header true, encoding 'utf8')").format(
        target, sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("truncate {}").format(target))
        try:
            with cursor.copy(copy) as stream:
                for chunk in chunks:
                    stream.write(chunk)
        except (DataError, IntegrityError) as error:
            raise FileRefused(
                f"{path}: {error.diag.message_primary} ({error.diag.context or error.diag.message_detail}). "
                f"A file is loaded whole or not at all, so what was published before stays. When the file is "
                f"mended, clear this run."
            ) from error
        return cursor.rowcount


def split_header(chunks: Iterator[bytes], path: str) -> tuple[list[str], Iterator[bytes]]:
    """Read a CSV file's first record.

    Returns:
        The names in the header, and all the bytes of the file, header included.

    Raises:
        FileRefused: the file is empty, or its first record does not end, or is not UTF-8.
    """
    start = b""
    for chunk in chunks:
        start += chunk
        end = _end_of_record(start)
        if end is not None or len(start) > LONGEST_HEADER_BYTES:
            break
    else:
        end = len(start)
    if end is None or not start[:end].strip():
        raise FileRefused(
            f"{path}, line 1: there is no header ({len(start):,} bytes read). Columns are found by their names, "
            f"so the file cannot be loaded, and what was published before stays. Clear this run when it is mended."
        )
    try:
        text = start[:end].removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileRefused(f"{path}, line 1: the header is not UTF-8 ({error}). Nothing was loaded.") from None
    return next(csv.reader(io.StringIO(text, newline=""))), _chain(start, chunks)


def _end_of_record(start: bytes) -> int | None:
    quoted = False
    for position, byte in enumerate(start):
        if byte == ord('"'):
            quoted = not quoted
        elif byte in b"\r\n" and not quoted:
            return position
    return None


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield start
    yield from rest


def file_columns(connection: Connection, table: str) -> list[str]:
    """Columns of a staging table that its file has: those that the database does not fill by a default."""
    rows = connection.execute(
        """
        select attname
        from pg_catalog.pg_attribute
        where attrelid = %s::regclass and attnum > 0 and not attisdropped and not atthasdef
        order by attnum
        """,
        [f"staging.{table}"],
    ).fetchall()
    return [name for (name,) in rows]


def match_columns(header: Sequence[str], expected: Sequence[str], path: str, table: str) -> list[str]:
    """Columns of the table in the order of the file's header.

    Raises:
        FileRefused: a column is missing, is not in the table, or stands twice.
    """
    problems = [
        *(f'lacks "{name}"' for name in expected if name not in header),
        *(f'has "{name}", which staging.{table} has not' for name in header if name not in expected),
        *(f'repeats "{name}"' for name in dict.fromkeys(header) if header.count(name) > 1),
    ]
    if problems:
        raise FileRefused(
            f"{path}, line 1: the header {'; '.join(problems)} (found: {', '.join(header)}). The file cannot be "
            f"loaded like that, and what was published before stays. A new or renamed column needs a migration "
            f"of its table and of staging; if the file is wrong, clear this run when it is mended."
        )
    return list(header)
