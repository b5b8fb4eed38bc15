"""The only Python that moves data: one CSV file over HTTPS into one staged table."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowTaskTimeout
from psycopg import sql

from company_data.csv_files import check_rows, match_columns, rejected, split_header
from company_data.errors import FileMissing, FileNotYetAvailable, FileRejected, NotInSource, SourceUnavailable, shown
from company_data.http_client import one_line, without_secrets
from company_data.months import first_sales_month, last_sales_month
from company_data.retries import LATE_FOR, STAGING_RETRIES, LoadRetryPolicy
from company_data.settings import CONNECTION_ID, CONNECTION_OPTIONS, source_url
from company_data.source import KEPT, RETRIED, Download, open_file

log = logging.getLogger(__name__)

MAX_PROBLEM, MAX_RECORDED = 200, 4_000

# The months before one of which the ledger does not know that the source lacks them, newest first, and whether the
# source had a file: requested_at stays when the server has begun to send it.
EARLIER_MONTHS = """
    with requested as (
        select file_month, bool_or(requested_at is not null) as is_known, bool_or(status = 'not_in_source') as is_lacking
        from pipeline.files
        inner join pipeline.loads using (file_id)
        where table_name = %(table)s and file_month < %(month)s
        group by file_month
    )

    select file_month::text, coalesce(is_known, false)
    from requested
    full join (
        select month::date as file_month
        from generate_series(%(first)s::date, %(month)s::date - 1, interval '1 month') as month
    ) as scheduled using (file_month)
    where is_known or is_lacking is not true
    order by is_known desc nulls last, file_month desc
"""


@task(do_xcom_push=True, retries=STAGING_RETRIES, retry_policy=LoadRetryPolicy(STAGING_RETRIES))
def stage_csv(table: str, file_month: str | None = None) -> int:
    """Stage a source file.

    Args:
        table: the source: its name in pipeline.sources, which has the path of the file.
        file_month: for the file of a month, its first day (YYYY-MM-DD).

    Returns:
        The load in pipeline.loads, by which the following steps know what to check and to publish.

    Raises:
        FileRejected: the file breaks the contract, or the run is not one of a month; a retry would find the same.
        SourceUnavailable: the network or the source failed, or the file may be late.
        NotInSource: the month lies before the first one of the source; the task is skipped.
        psycopg.Error: the database failed.
        ValueError: the connection operational_db is not one to PostgreSQL.
    """
    run = get_current_context()["dag_run"]
    if file_month is not None:
        require_month(run)
    hook = PostgresHook(CONNECTION_ID, options=CONNECTION_OPTIONS)
    kind = hook.get_connection(CONNECTION_ID).conn_type
    if kind != PostgresHook.conn_type:
        # This task could connect, but the SQL tasks find their hook by the type.
        raise ValueError(
            f'the connection {CONNECTION_ID} has the type "{kind}", and only "postgres" is supported. Nothing was loaded. '
            f"Begin AIRFLOW_CONN_OPERATIONAL_DB with postgresql://, without a driver, then clear this run."
        )
    with hook.get_conn() as connection:
        connection.autocommit = True
        return stage(connection, table, file_month, (run.dag_id, run.run_id), hook)


def stage(
    connection: psycopg.Connection[Any],
    table: str,
    file_month: str | None,
    run: tuple[str, str],
    hook: PostgresHook,
) -> int:
    """Take a load from its beginning to staged, or record why it stopped.

    Args:
        connection: to the operational database, in autocommit mode.
        table: as of stage_csv; so is file_month.
        run: the id of the DAG and that of the run, for the ledger.
        hook: opens the connection that records a failure, which may have broken the first.

    Returns:
        The load's number.

    Raises:
        FileRejected, SourceUnavailable, NotInSource, psycopg.Error: as of stage_csv.
    """
    path = file_path(connection, table, file_month)
    url = source_url(path)
    # Committed before the file is requested.
    [(load,)] = connection.execute(
        "select pipeline.begin_load(%s, %s, %s, %s, %s)", [table, file_month, without_secrets(url), *run]
    ).fetchall()
    try:
        with ExitStack() as stack:
            # Only files that are named by their month can be late.
            late_until = end_of_month(file_month) + LATE_FOR if file_month else None
            try:
                with connection.transaction():
                    connection.execute("select pipeline.request_file(%s)", [load])
                    download = stack.enter_context(open_file(url, late_until))
            except FileMissing as missing:
                raise judged(connection, table, file_month, missing) from None
            with connection.transaction():
                optional = optional_columns(connection, table, file_month)
                rows = copy_load(connection, load, download, download.chunks(), path, optional)
    except AirflowTaskTimeout:
        error = SourceUnavailable(
            f"{without_secrets(url)}: the file was not complete when the task's time limit was reached. "
            f"{KEPT} {RETRIED}"
        )
        stop_load(hook, load, error)
        raise error from None
    except Exception as error:
        stop_load(hook, load, error)
        raise
    log.info("%s: staged %s rows, load %s", download.address, f"{rows:,}", load)
    log.info("%s bytes, SHA-256 %s, ETag %s", f"{download.bytes:,}", download.sha256.hexdigest(), download.etag)
    if rows == 0:
        log.warning("%s has a header and no rows: it is loaded as empty.", download.address)
    return int(load)


def stop_load(hook: PostgresHook, load: int, error: Exception) -> None:
    """Record why nothing was staged; where the database cannot be reached, the next load records that this one ended."""
    status, wait_until = "failed", None
    if isinstance(error, FileRejected):
        status = "rejected"
    elif isinstance(error, FileNotYetAvailable):
        status, wait_until = "waiting", error.waits_until
    elif isinstance(error, NotInSource):
        status = "not_in_source"
        log.info("%s", error)  # Airflow's own line of it is in a group that its UI does not open
    reason = one_line(str(error), MAX_RECORDED)
    try:
        with hook.get_conn() as connection:
            connection.execute("select pipeline.stop_load(%s, %s, %s, %s)", [load, status, reason, wait_until])
    except psycopg.Error as unrecorded:
        log.warning("The reason is not in pipeline.loads: %s", unrecorded)


def judged(
    connection: psycopg.Connection[Any], table: str, file_month: str | None, missing: FileMissing
) -> FileMissing | NotInSource:
    """What a missing file means: a gap, a source without any month, or a month before the first one of the source.

    Args:
        connection: to the operational database, in autocommit mode.
        table: as of stage_csv; so is file_month.
        missing: the answer of the server.

    Raises:
        SourceUnavailable: the network or the source failed while earlier months were asked for.
    """
    if not file_month:
        return missing
    first = min(f"{first_sales_month():%Y-%m-%d}", file_month)
    # Months run side by side, so the ledger may not know the months just before this one yet.
    earlier = connection.execute(EARLIER_MONTHS, {"table": table, "first": first, "month": file_month}).fetchall()
    if any(is_known or has_file(connection, table, month) for month, is_known in earlier):
        return missing
    last, end = last_sales_month(), end_of_month(file_month)
    if end_of_month(f"{end:%Y-%m-%d}") > datetime.now(UTC) or (last and end > last):
        # It fails, or a source without any month would be one without an error.
        return FileMissing(f"{missing} The source has no file of {table} from {first[:7]} (SALES_FIRST_MONTH) on.")
    return NotInSource(
        f"{str(missing).partition(KEPT)[0]}The source has no earlier file of {table} either, so the month is skipped. If it "
        f"should be there, upload the file, then clear this run."
    )


def has_file(connection: psycopg.Connection[Any], table: str, file_month: str) -> bool:
    """Whether the source has a file of this month, valid or not."""
    try:
        with open_file(source_url(file_path(connection, table, file_month))):
            return True
    except FileRejected as error:
        return not isinstance(error, FileMissing)


def copy_load(
    connection: psycopg.Connection[Any],
    load: int,
    download: Download,
    text: Iterator[bytes],
    path: str,
    optional: Collection[str],
) -> int:
    """Stage the file of a load, in the caller's transaction.

    Args:
        connection: to the operational database.
        load: the load, which is loading.
        download: what the server said of the file. It has been read, at the latest when the text ends.
        text: as of copy_file; so are path and optional.

    Returns:
        The number of rows staged.

    Raises:
        FileRejected, psycopg.Error: as of copy_file.
    """
    [(staged_table,)] = connection.execute("select pipeline.create_staged(%s)", [load]).fetchall()
    rows = copy_file(connection, sql.Identifier(*staged_table.split(".")), text, path, optional)
    connection.execute(
        "select pipeline.stage_load(%s, %s, %s, %s, %s, %s)",
        [load, download.etag, download.last_modified, download.bytes, download.sha256.hexdigest(), rows],
    )
    return rows


def copy_file(
    connection: psycopg.Connection[Any],
    table: sql.Identifier,
    text: Iterator[bytes],
    path: str,
    optional: Collection[str] = (),
) -> int:
    """Copy a file into its staged table, in the caller's transaction.

    Args:
        connection: to the operational database.
        table: the table to copy into, made in the same transaction, so that COPY can freeze the rows.
        text: the file, in pieces of any size.
        path: the file's name, for messages.
        optional: columns that the file may lack.

    Returns:
        The number of rows copied.

    Raises:
        FileRejected: the text is not CSV, its header does not match the table, or a value is not one of its type.
    """
    header, line_end, chunks = split_header(text, path)
    expected = file_columns(connection, table)
    columns = {name: expected[name] for name in match_columns(header, list(expected), path, optional)}
    copy = sql.SQL(
        "copy {} ({}) from stdin with (format csv, header true, freeze true, encoding 'utf8', force_null ({}))"
    ).format(
        table,
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        # Programs that quote every value write a missing number as "", which only a text can be.
        sql.SQL(", ").join(sql.Identifier(name) for name, type_name in columns.items() if type_name != "text"),
    )
    wrong_row = None
    with connection.cursor() as cursor:
        try:
            with cursor.copy(copy) as stream:
                stream.write(line_end)  # for the header, so that the line numbers in COPY's messages are the file's
                try:
                    for rows in check_rows(chunks, columns, line_end, path):
                        stream.write(rows)
                except FileRejected as error:
                    wrong_row = error  # COPY ends normally, and may reject an earlier row
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded) as error:
            # Without the error of COPY in the log: it quotes the row as it is in the file.
            raise rejected_by_copy(error, path) from None
        if wrong_row:
            raise wrong_row
        return cursor.rowcount


def rejected_by_copy(error: psycopg.Error, path: str) -> FileRejected:
    """PostgreSQL's error for a line of a file as a message of the pipeline: its context names the line, and maybe the column."""
    problem = shown(error.diag.message_primary or str(error), MAX_PROBLEM)
    if isinstance(error, psycopg.errors.CheckViolation):
        problem = f'the row breaks the rule "{error.diag.constraint_name}"'
    elif isinstance(error, psycopg.errors.NotNullViolation):
        problem = "there is no value, and each row needs one"
    context = re.match(r'COPY \w+, line (\d+)(?:, column ("[^"]*"|[^:]+))?(?:: (.*))?$', error.diag.context or "", re.S)
    if not context:
        place = error.diag.context or error.diag.message_detail or ""
        return rejected(path, 1, f"{problem} ({shown(place, MAX_PROBLEM)})")
    line, column, value = context.groups()
    if value and value not in problem:
        problem = f"{problem} (found {shown(value, MAX_PROBLEM)})"
    return rejected(path, int(line), problem, column or error.diag.column_name)


def file_columns(connection: psycopg.Connection[Any], table: sql.Identifier) -> dict[str, str]:
    """Columns that a file must have, with their types: those of its staged table."""
    rows = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod)
        from pg_catalog.pg_attribute
        where attrelid = %s::regclass and attnum > 0 and not attisdropped
        order by attnum
        """,
        [table.as_string(connection)],
    ).fetchall()
    return dict(rows)


def require_month(run: Any) -> None:
    """Fail a run whose timetable was not asked: one with an id of its own, or one that the CLI or an operator made.

    Raises:
        FileRejected: the run is not one of a whole month, or has the logical date of a month that is still to be scheduled.
    """
    # Here, because services/check_source.py runs without the plugin.
    from company_data.schedule import CLOCKS_DIFFER_BY

    start, end, day = run.data_interval_start, run.data_interval_end, run.logical_date
    what = None
    if not start or start != start_of_month(start) or end != end_of_month(f"{start:%Y-%m-%d}"):
        what = f"its data interval from {start} to {end} is not one whole month (UTC)"
    elif end > datetime.now(UTC) + CLOCKS_DIFFER_BY:
        what = f"{start:%Y-%m} has not ended"
    elif run.run_type == "manual" and day == start_of_month(day):
        what = f"its logical date {day} is that of a scheduled run, and as long as it exists, no month is scheduled"
    if what:
        raise FileRejected(
            f"The run {run.run_id} loads nothing: {what}. Delete this run. To load a month, choose Backfill, or Trigger "
            f"with a logical date in the month after it."
        )


def file_path(connection: psycopg.Connection[Any], table: str, file_month: str | None) -> str:
    """Path of a file below SOURCE_BASE_URL, for example sales/2024-02-01/sales.csv; empty for an unknown source."""
    rows = connection.execute(
        "select replace(file_path, 'YYYY-MM-01', %s::text) from pipeline.sources where table_name = %s",
        [file_month or "", table],
    ).fetchall()
    return str(rows[0][0]) if rows else ""


def optional_columns(connection: psycopg.Connection[Any], table: str, file_month: str | None) -> set[str]:
    """Columns that the file of this month may lack, because they were added later."""
    rows = connection.execute(
        "select column_name from pipeline.optional_columns where table_name = %s and required_from > %s::date",
        [table, file_month],
    ).fetchall()
    return {name for (name,) in rows}


def start_of_month(moment: datetime) -> datetime:
    """The moment, in UTC, at which the month of a moment in UTC begins."""
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def end_of_month(first_day: str) -> datetime:
    """The moment, in UTC, at which the month that begins on this day (YYYY-MM-DD) ends."""
    first = datetime.fromisoformat(first_day).replace(tzinfo=UTC)
    return (first + timedelta(days=32)).replace(day=1)
