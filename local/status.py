"""What is loaded and what is not: data_freshness, and the months of sales as the ledger has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import psycopg

FRESHNESS = "select table_name, row_count, up_to, loaded_at, file_version from public.data_freshness"

# A month's newest attempt is its newest file of sales, and the stores.csv that was staged for it.
MONTHS = """
    with newest_attempts as (
        select distinct on (sale_month, table_name)
            sale_month,
            table_name,
            load_id,
            outcome,
            finished_at,
            case when outcome in ('refused', 'failed') then concat(outcome, ': ', problem) end as problem
        from pipeline.file_loads
        where sale_month is not null
        order by sale_month asc, table_name asc, load_id desc
    ),

    attempted as (
        select
            sales.sale_month,
            sales.outcome,
            sales.finished_at,
            coalesce(sales.problem, stores.problem) as problem
        from newest_attempts as sales
        left join newest_attempts as stores
            on
                sales.sale_month = stores.sale_month
                and stores.table_name = 'stores'
                and sales.load_id < stores.load_id
        where sales.table_name = 'sales'
    ),

    loaded as (
        select
            sale_month,
            row_count,
            total,
            aggregated_at,
            finished_at,
            sha256
        from pipeline.current_loads
        where table_name = 'sales'
    ),

    -- Months that nobody expected have loads all the same.
    months as (
        select unnest(%(expected)s::date[]) as sale_month
        union
        select sale_month from attempted
    )

    select
        months.sale_month,
        case
            when attempted.outcome is null then 'missing'
            when attempted.problem is not null then 'failed'
            when attempted.outcome = 'published' and loaded.aggregated_at is not null then 'loaded'
            else 'loading'
        end as state,
        loaded.row_count,
        loaded.total,
        loaded.finished_at,
        loaded.sha256,
        attempted.outcome,
        attempted.finished_at,
        attempted.problem
    from months
    left join attempted
        on months.sale_month = attempted.sale_month
    left join loaded
        on months.sale_month = loaded.sale_month
    order by months.sale_month
"""

VERSION_LETTERS = 12
PROBLEM_LETTERS = 160


def print_status(address: str, expected: Sequence[date]) -> bool:
    """Print data_freshness and then every month, both of the same moment.

    Args:
        address: the database, as libpq reads it; its user may read the ledger.
        expected: first days of the months that should be loaded; others are shown if there was an attempt.

    Returns:
        Whether every month that is shown is loaded.
    """
    with psycopg.connect(address, options="-c TimeZone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        freshness = connection.execute(FRESHNESS).fetchall()
        months = connection.execute(MONTHS, {"expected": list(expected)}).fetchall()

    print(f"{'table':<18} {'rows':>13}  {'up to':<10}  {'loaded at, UTC':<16}  file version")
    for table, rows, up_to, loaded_at, version in freshness:
        line = f"{table:<18} {_number(rows):>13}  {up_to or ''!s:<10}  {_moment(loaded_at):<16}  {_version(version)}"
        print(line.rstrip())

    print(f"\n{'month':<8} {'state':<8} {'rows':>13} {'total':>20}  {'loaded at, UTC':<16}  file version")
    for month, state, rows, total, loaded_at, version, outcome, ended_at, problem in months:
        line = f"{month:%Y-%m}  {state:<8} {_number(rows):>13} {_number(total):>20}  {_moment(loaded_at):<16}  "
        print(f"{line}{_version(version)}".rstrip())
        note = {
            "loading": f"its newest file was {outcome} at {_moment(ended_at)}, and is not in monthly_sales yet",
            "failed": _shortened(f"{_moment(ended_at)}, {problem}"),
        }.get(state)
        if note:
            print(f"         {note}{'; the version above is still loaded' if version and state == 'failed' else ''}")

    states = Counter(state for _, state, *_ in months)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    # The same number of rows as data_freshness has for sales.
    rows_loaded = sum(rows for _, _, rows, *_ in months if rows is not None)
    print(f"\n{len(months)} months: {counts}; {rows_loaded:,} rows")
    return set(states) <= {"loaded"}


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= PROBLEM_LETTERS else text[:PROBLEM_LETTERS] + "…"


def _moment(value: Any) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _version(value: str | None) -> str:
    return " ".join(part[:VERSION_LETTERS] for part in (value or "").split())
