"""Shows what is loaded and what is not, and waits for the first loads: the views data_freshness and month_status."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg

from services import SAFE_PATH, use_workflows

TABLES = """
    select
        table_name, status, row_count, up_to, loaded_at, file_version, is_loaded_with_months, error, is_monthly
    from public.data_freshness
"""

# Months that were attempted although they are not expected are shown too.
MONTHS = """
    with expected as (
        select table_name, file_month
        from public.data_freshness
        cross join unnest(%s::date[]) as file_month
        where is_monthly
    )
    select
        table_name,
        file_month,
        coalesce(status, 'missing'),
        row_count,
        total,
        loaded_at,
        file_version,
        newest_attempt_at,
        coalesce(error, anomalies)
    from expected
    full join public.month_status using (table_name, file_month)
    order by table_name, file_month
"""

# A late file is waited for within its week; see pipeline.loads.wait_until. A retired month was taken out on purpose.
GOOD_STATES = {"loaded", "retired", "waiting", "not_in_source"}

# Nothing is at work on such a month, unless Airflow tries again.
ENDED_STATES = {"failed", "rejected"}
NOT_LOADED = {"missing", *ENDED_STATES}

NONE_DUE = "no month is due yet: SALES_FIRST_MONTH has not ended"

VERSION_LETTERS = 12
NOTE_LETTERS = 160
STILL_LOADED = "; the version above is still loaded"

LOOK_SECONDS = 10


@dataclass(frozen=True)
class Status:
    """The rows of data_freshness and of every month, as of one moment.

    Attributes:
        due: first days of the months that should be loaded.
    """

    tables: list[tuple[Any, ...]]
    months: list[tuple[Any, ...]]
    due: Sequence[date]

    @property
    def table_states(self) -> dict[str, str]:
        """State of each table."""
        return {name: state for name, state, *_ in self.tables}

    @property
    def monthly_tables(self) -> list[str]:
        """The tables that have a file per month."""
        return [name for name, *_, is_monthly in self.tables if is_monthly]

    @property
    def month_states(self) -> dict[tuple[str, date], str]:
        """State of each month of each monthly table."""
        return {(table, month): state for table, month, state, *_ in self.months}

    @property
    def complete(self) -> bool:
        """Whether every table is loaded and not stale, and every month due is loaded or waits for a late file."""
        tables = {
            state
            for _, state, *_, is_loaded_with_months, _, _ in self.tables
            if self.due or state != "missing" or not is_loaded_with_months
        }
        due = {state for (_, month), state in self.month_states.items() if month in self.due}
        return tables <= {"loaded"} and due <= GOOD_STATES

    @property
    def without_a_month(self) -> list[str]:
        """Monthly tables of which the source has no file, the newest of which may be late."""
        states: dict[str, set[str]] = {}
        for (table, _), state in self.month_states.items():
            states.setdefault(table, set()).add(state)
        return [table for table, of_table in states.items() if of_table <= {"not_in_source", "waiting"}]


def months_due(settings: Mapping[str, str]) -> list[date]:
    """First days of the months that automatic catch-up owes by now.

    Raises:
        ValueError: a setting is not a month.
    """
    use_workflows()
    from company_data.months import first_sales_month, last_sales_month

    month, last = first_sales_month(settings).date(), (last_sales_month(settings) or datetime.max).date()
    months = []
    while month < datetime.now(UTC).date().replace(day=1) and month <= last:
        months.append(month)
        month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    return months


def read_status(address: str, expected: Sequence[date]) -> Status:
    """Read the state of the tables and of the months.

    Args:
        address: the database, as libpq or SQLAlchemy reads it; its user may read schema public.
        expected: first days of the months that should be loaded.
    """
    address = f"postgresql://{address.partition('://')[2]}"
    with psycopg.connect(address, options=f"{SAFE_PATH} -c TimeZone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return Status(
            connection.execute(TABLES).fetchall(),
            connection.execute(MONTHS, [list(expected)]).fetchall(),
            expected,
        )


def print_status(status: Status) -> None:
    """Print the tables and then the months."""
    print(f"{'table':<18} {'status':<16} {'rows':>13}  {'up to':<10}  {'loaded at, UTC':<16}  file version")
    for table, state, rows, up_to, loaded_at, version, _, error, _ in status.tables:
        line = f"{table:<18} {state:<16} {_number(rows):>13}  {up_to or ''!s:<10}  {_moment(loaded_at):<16}  "
        print(f"{line}{_version(version)}".rstrip())
        if error:
            print(f"{'':<19} {_reason(error, state, version)}")

    for table, months in groupby(status.months, itemgetter(0)):
        print_months(table, [row[1:] for row in months], status.due)
    if not status.due:
        print(f"\n{NONE_DUE}")


def print_months(table: str, months: Sequence[tuple[Any, ...]], due: Sequence[date]) -> None:
    """Print the months of one table, and how many there are in each state. Equal ones in a row are one line."""
    past = [row for row in months if row[0] not in due and row[1] in ENDED_STATES and row[5] is None]
    months = [row for row in months if row not in past]
    print(f"\n{'month':<8} {'status':<16} {'rows':>13} {'total':>20}  {'loaded at, UTC':<16}  file version")
    for _, alike in groupby([row for row in months if row[1] != "not_in_source"], _look):
        rows_alike = list(alike)
        _, state, rows, total, loaded_at, version, attempted_at, note = rows_alike[0]
        shown = months_from([month for month, *_ in rows_alike])
        line = f"{shown:<7}  {state:<16} {_number(rows):>13} {_number(total):>20}  {_moment(loaded_at):<16}  "
        print(f"{line}{_version(version)}".rstrip())
        if state == "loaded" and note:
            print(f"         {_shortened(f'unusual: {note}')}")
        elif state not in ("loaded", "missing"):
            why = f"{state} since {_moment(attempted_at)}{f': {note}' if note else ''}"
            print(f"         {_reason(why, state, version)}")
    if past:
        print(f"left out, because not due any more and never loaded: {months_from([month for month, *_ in past])}")
    if lacking := [month for month, state, *_ in months if state == "not_in_source"]:
        first = next((f"{month:%Y-%m}" for month, _, rows, *_ in months if rows is not None), None)
        has = f"its files begin with {first}" if first else "it has no month yet. Is SOURCE_BASE_URL right?"
        print(f"{months_from(lacking)} {'are' if lacking[1:] else 'is'} not in the source: {has}")

    states = Counter(state for _, state, *_ in months)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    # The same number of rows as data_freshness has for the table.
    rows_loaded = sum(rows for _, _, rows, *_ in months if rows is not None)
    print(f"\n{len(months)} months of {table}: {counts or 'none is due'}; {rows_loaded:,} rows")


def months_from(months: Sequence[date]) -> str:
    """The first and the last of the months."""
    first, last = f"{months[0]:%Y-%m}", f"{months[-1]:%Y-%m}"
    return first if first == last else f"{first} to {last}"


def for_any_month(text: str, month: date) -> str:
    """A message without what differs between the messages of two months that fail for the same reason."""
    return re.sub(r"\bload \d+", "load …", text.replace(f"{month:%Y-%m}", "…"))


def _look(row: tuple[Any, ...]) -> object:
    """What two months must have in common to be one line. A month that is loaded is a line of its own."""
    month, state, *_, version, _, note = row
    return (state, for_any_month(note or "", month)) if state in NOT_LOADED and version is None else month


def wait_until_complete(address: str, expected: Sequence[date], limit: float) -> Status:
    """Look repeatedly until everything is loaded, or until a limit in seconds has passed; returns what was seen last.

    Raises:
        psycopg.Error: the last look failed. Before, the server may be away, or not be migrated.
    """
    deadline = time.monotonic() + limit
    while True:
        ends = time.monotonic() >= deadline
        try:
            status = read_status(address, expected)
            if status.complete or ends:
                return status
        except psycopg.Error:
            if ends:
                raise
        time.sleep(LOOK_SECONDS)


def main() -> int:
    """Print what is loaded in the database of DATABASE_URL; the exit status is 0 if it is all that should be."""
    parser = argparse.ArgumentParser(prog="python -m services.status", description=main.__doc__)
    parser.add_argument("--wait", type=float, default=0, metavar="HOURS", help="how long to wait for the first loads")
    limit = parser.parse_args().wait * 3600
    try:
        status = wait_until_complete(os.environ["DATABASE_URL"], months_due(os.environ), limit)
    except (psycopg.Error, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_status(status)
    return 0 if status.complete else 1


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _reason(text: str, state: str, version: str | None) -> str:
    shown = _shortened(text)
    return f"{shown.removesuffix('.')}{STILL_LOADED}" if version and state != "changed" else shown


def _shortened(text: str) -> str:
    return textwrap.shorten(text, NOTE_LETTERS, placeholder=" …")


def _moment(value: Any) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _version(value: str | None) -> str:
    return " ".join(part[:VERSION_LETTERS] for part in (value or "").split())


if __name__ == "__main__":
    sys.exit(main())
