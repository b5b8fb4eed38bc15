"""Prints what is loaded and what is not: the views data_freshness and month_status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import psycopg

FRESHNESS = "select table_name, row_count, up_to, loaded_at, file_version from public.data_freshness"

# Months that were attempted although they are not expected are shown too.
MONTHS = """
    select
        sale_month,
        coalesce(state, 'missing'),
        row_count,
        total,
        loaded_at,
        file_version,
        newest_attempt_at,
        problem
    from unnest(%s::date[]) as expected (sale_month)
    full join public.month_status using (sale_month)
    order by sale_month
"""

# A late file is waited for within its week; see pipeline.loads.waits_until.
GOOD_STATES = {"loaded", "waiting"}

VERSION_LETTERS = 12
PROBLEM_LETTERS = 160


def print_status(address: str, expected: Sequence[date]) -> bool:
    """Print data_freshness and then every month, both of the same moment.

    Args:
        address: the database, as libpq reads it; its user may read schema public.
        expected: first days of the months that should be loaded.

    Returns:
        Whether every month that is shown is loaded, or waits for a late file.
    """
    with psycopg.connect(address, options="-c TimeZone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        freshness = connection.execute(FRESHNESS).fetchall()
        months = connection.execute(MONTHS, [list(expected)]).fetchall()

    print(f"{'table':<18} {'rows':>13}  {'up to':<10}  {'loaded at, UTC':<16}  file version")
    for table, rows, up_to, loaded_at, version in freshness:
        line = f"{table:<18} {_number(rows):>13}  {up_to or ''!s:<10}  {_moment(loaded_at):<16}  {_version(version)}"
        print(line.rstrip())

    print(f"\n{'month':<8} {'state':<8} {'rows':>13} {'total':>20}  {'loaded at, UTC':<16}  file version")
    for month, state, rows, total, loaded_at, version, attempted_at, problem in months:
        line = f"{month:%Y-%m}  {state:<8} {_number(rows):>13} {_number(total):>20}  {_moment(loaded_at):<16}  "
        print(f"{line}{_version(version)}".rstrip())
        if state == "loaded" and problem:
            print(f"         {_shortened(f'odd: {problem}')}")
        elif state not in ("loaded", "missing"):
            note = _shortened(f"{state} since {_moment(attempted_at)}{f': {problem}' if problem else ''}")
            print(f"         {note}{'; the version above is still loaded' if version else ''}")

    states = Counter(state for _, state, *_ in months)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    # The same number of rows as data_freshness has for sales.
    rows_loaded = sum(rows for _, _, rows, *_ in months if rows is not None)
    print(f"\n{len(months)} months: {counts}; {rows_loaded:,} rows")
    return set(states) <= GOOD_STATES


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= PROBLEM_LETTERS else text[:PROBLEM_LETTERS] + "…"


def _moment(value: Any) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _version(value: str | None) -> str:
    return " ".join(part[:VERSION_LETTERS] for part in (value or "").split())
