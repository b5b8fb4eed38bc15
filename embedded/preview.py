"""`make preview`: what loading a month again would change, found out in a transaction that is rolled back."""

from __future__ import annotations

import os
import re
import tempfile
from datetime import date
from typing import IO, Any

import psycopg

from embedded.environment import use_company_data
from embedded.state import ROOT, RunError, State

CHUNK = 1 << 20
# The end of the messages of a load; a preview has no run and keeps no rows.
ADVICE = re.compile(
    r" (Then|When the file is corrected,) clear this run\.$| \(the rows are in \S+ until the file is loaded again\)$"
)

MONTHLY = "select table_name from pipeline.sources where is_monthly order by place"
BEGIN = """
    insert into pipeline.loads (file_id, dag_id, run_id, source_url, staged_table)
    select file_id, 'preview', 'preview', %(url)s, format('staging.%%I', table_name || '_preview')
    from pipeline.files
    where table_name = %(table)s and file_month is not distinct from %(month)s
    returning load_id
"""
FOUND = """
    select
        loads.error, loads.anomalies, requests.figures, loads.sha256 = published.sha256, files.difference,
        requests.on_anomaly, requests.replaces_rows
    from pipeline.loads
    inner join pipeline.files using (file_id)
    left join pipeline.approval_requests as requests using (load_id)
    left join pipeline.loads as published on published.file_id = loads.file_id and published.status = 'published'
    where loads.load_id = any(%s)
    order by loads.load_id
"""


def preview(table: str, month: str) -> None:
    """Download, check and compare a month, print what loading it would change, and change nothing.

    Args:
        table: the monthly table.
        month: the month (YYYY-MM).

    Raises:
        RunError: nothing runs here, or the month cannot be loaded.
    """
    state = State.load()
    if not state.is_running:
        raise RunError("nothing runs here. make up starts it.")
    try:
        first = str(date.fromisoformat(f"{month}-01"))
    except ValueError:
        raise RunError(f'MONTH is "{month}", which is not a month. Write it as YYYY-MM, for example 2024-02.') from None
    os.environ |= state.settings
    use_company_data()
    from company_data.settings import CONNECTION_OPTIONS

    address = state.cluster.url("companydata")
    with psycopg.connect(address, options=CONNECTION_OPTIONS, autocommit=True) as connection:
        monthly = [name for (name,) in connection.execute(MONTHLY)]
        if table not in monthly:
            raise RunError(
                f'TABLE is "{table}", which has no file per month. Write it as one of: {", ".join(monthly)}.'
            )
        # Downloaded before the transaction begins, so that a slow download holds no lock.
        files = [download(connection, name, of) for name, of in ((table, first), ("stores", None))]
        with connection.transaction(force_rollback=True):
            load, stores_load = (stage(connection, *file) for file in files)
            run(connection, "loads/check_month.sql", {"load": load, "stores_load": stores_load})
            if connection.execute(
                "select from pipeline.loads where load_id = %s and status = 'checked'", [load]
            ).rowcount:
                run(connection, "loads/compare_month.sql", {"load": load})
            print(answer(connection.execute(FOUND, [[load, stores_load]]).fetchall()))


def download(connection: psycopg.Connection[Any], table: str, month: str | None) -> tuple[Any, ...]:
    """Download a file; returns what stage needs."""
    from airflow.sdk.exceptions import AirflowException

    from company_data.settings import source_url
    from company_data.source import open_file
    from company_data.staging import file_path

    path = file_path(connection, table, month)
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - open until the program ends
    try:
        with open_file(source_url(path)) as found:
            copy.writelines(found.chunks())
    except AirflowException as error:
        raise RunError(ADVICE.sub("", str(error))) from None
    copy.seek(0)
    return table, month, path, found, copy


def stage(
    connection: psycopg.Connection[Any], table: str, month: str | None, path: str, found: Any, copy: IO[bytes]
) -> int:
    """Stage a file that was downloaded; returns its load, which ends with the transaction."""
    from company_data.errors import FileRejected
    from company_data.staging import copy_load, optional_columns

    connection.execute(
        "insert into pipeline.files (table_name, file_month) values (%s, %s) on conflict do nothing", [table, month]
    )
    [(load,)] = connection.execute(BEGIN, {"table": table, "month": month, "url": found.address}).fetchall()
    text = iter(lambda: copy.read(CHUNK), b"")
    try:
        copy_load(connection, load, found, text, path, optional_columns(connection, table, month))
    except FileRejected as error:
        raise RunError(f"the file would be rejected: {ADVICE.sub('', str(error))}") from None
    return int(load)


def run(connection: psycopg.Connection[Any], name: str, parameters: dict[str, int]) -> None:
    """Run a file of sql/."""
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    for statement in DbApiHook.split_sql_string((ROOT / "sql" / name).read_text()):
        connection.execute(statement.encode(), parameters)


def answer(found: list[tuple[Any, ...]]) -> str:
    """The conclusion, and then the figures."""
    from company_data.settings import asks_a_person, on_anomaly

    (_, anomalies, figures, is_same, difference, of_source, replaces_rows), *others = found
    if errors := [ADVICE.sub("", error) for error, *_ in found if error]:
        return f"The month would be rejected: {'; '.join(errors)}."
    if is_same and difference:
        return f"The same file as is published. It would repair what was changed by hand: {difference}"
    if is_same:
        same_stores = all(is_same for _, _, _, is_same, *_ in others)
        change = "nothing would change" if same_stores else "only stores and locations would change, by stores.csv"
        return f"The same file as is published: {change}."
    if not anomalies:
        return f"The month would be published.\n\n{figures}"
    mode = on_anomaly(of_source)
    end = "wait for a person" if asks_a_person(mode, replaces_rows=replaces_rows) else "be published without a decision"
    return f"The month is unusual and would {end} (ON_ANOMALY={mode}): {anomalies}.\n\n{figures}"
