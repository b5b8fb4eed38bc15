"""Writes pipeline.file_loads: what was loaded, and what could not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import psycopg

from company_data.errors import FileRefused
from company_data.source import Download

REPLACE_WAITING = """
    update pipeline.file_loads
    set
        outcome = 'replaced',
        finished_at = clock_timestamp()
    where
        table_name = %(table_name)s
        and sale_month is not distinct from %(sale_month)s::date
        and outcome in ('staged', 'checked')
"""

RECORD_STAGED = """
    insert into pipeline.file_loads (
        table_name, sale_month, address, etag, last_modified, bytes, sha256, row_count, dag_run, started_at, outcome
    )
    values (
        %(table_name)s, %(sale_month)s::date, %(address)s, %(etag)s, %(last_modified)s, %(bytes)s, %(sha256)s,
        %(row_count)s, %(dag_run)s, %(started_at)s, 'staged'
    )
    returning load_id
"""

RECORD_FAILURE = """
    insert into pipeline.file_loads (table_name, sale_month, address, dag_run, started_at, outcome, problem)
    values (%(table_name)s, %(sale_month)s::date, %(address)s, %(dag_run)s, %(started_at)s, %(outcome)s, %(problem)s)
"""


@dataclass
class Load:
    """One attempt to load a file; the fields are columns of pipeline.file_loads."""

    table_name: str
    sale_month: str | None
    address: str
    dag_run: str
    started_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def begin(self, connection: psycopg.Connection[Any]) -> None:
        """Note by the server's clock, which orders the loads of all machines, that the file begins to come."""
        [(self.started_at,)] = connection.execute("select clock_timestamp()").fetchall()

    def record_staged(self, connection: psycopg.Connection[Any], download: Download, rows: int) -> int:
        """Note, in the transaction that staged the rows, that they wait there; returns the load's number."""
        connection.execute(REPLACE_WAITING, vars(self))
        values = {
            **vars(self),
            "etag": download.etag,
            "last_modified": download.last_modified,
            "bytes": download.bytes,
            "sha256": download.sha256.hexdigest(),
            "row_count": rows,
        }
        [(number,)] = connection.execute(RECORD_STAGED, values).fetchall()
        return int(number)

    def record_failure(self, connection: psycopg.Connection[Any], error: Exception) -> None:
        """Note that nothing was staged, and why."""
        outcome = "refused" if isinstance(error, FileRefused) else "failed"
        connection.execute(
            RECORD_FAILURE, {**vars(self), "outcome": outcome, "problem": str(error).replace("\0", "\\0")}
        )
