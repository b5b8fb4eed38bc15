"""Who is measured: what each finds, how it is started, and how its work is checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.files import Month
from bench.processes import ROOT, BenchError
from bench.server import OTHERS, OURS, Server

MONTH = "2024-02-01"
COPY, OURS_FIRST, OURS_AGAIN = "copy", "ours_first", "ours_again"

SCHEMA = "bench"
DROP = f"drop schema if exists {SCHEMA} cascade"
# The columns of public.sales.
COLUMNS = "idx integer not null, value numeric not null, date date not null, store_idx integer not null"
EMPTY = f"{DROP}; create schema {SCHEMA}"
LOGGED = f"{EMPTY}; create table {SCHEMA}.sales ({COLUMNS}); create index on {SCHEMA}.sales (date)"
UNLOGGED = f"{EMPTY}; create unlogged table {SCHEMA}.sales ({COLUMNS})"
MONTHLY = "store_idx integer not null, sale_month date not null, value numeric not null"
DELETE_INSERT = f"""
    {LOGGED};
    create unlogged table {SCHEMA}.staging ({COLUMNS});
    create table {SCHEMA}.monthly_sales ({MONTHLY}, primary key (sale_month, store_idx))
"""

# The peers read the amounts as floating point; to the cent they are exact.
ALL_SALES = f"select count(*), 100 * sum(value::numeric(12, 2)) from {SCHEMA}.sales"  # noqa: S608 - constants
ALL_MONTHLY = f"select 100 * sum(value) from {SCHEMA}.monthly_sales"  # noqa: S608
OUR_SALES = (
    "select count(*), 100 * sum(value) from public.sales where date >= %(month)s::date and date < %(next)s::date"
)
OUR_MONTHLY = "select 100 * sum(value) from public.monthly_sales where sale_month = %(month)s"


def without_month(month: str) -> str:
    """SQL that takes a month (YYYY-MM-01) out of our sales, as if it had never been loaded."""
    return f"drop table if exists partitions.sales_{month[:7].replace('-', '_')}"


@dataclass(frozen=True)
class Contender:
    """One way to load a month.

    Attributes:
        name: in the results.
        label: in the printed table and the plot.
        command: its process.
        line: what the process is asked.
        database: the database it works in.
        prepare: SQL that makes what it needs, before it is measured.
        rows: query for the number of rows that it loaded, and their sum in cents.
        sums: query for the sum of its aggregate in cents, where it makes one.
        environment: what its process needs in its environment.
    """

    name: str
    label: str
    command: list[str]
    line: str = ""
    database: str = OTHERS
    prepare: str = ""
    rows: str = ALL_SALES
    sums: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def module(name: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Command for a module of this folder."""
    return [python, "-m", f"bench.{name}", *arguments]


def our_environment(bucket: Mapping[str, str]) -> dict[str, str]:
    """What the process of our steps needs: tests/steps.py and what it imports, and the address of the bucket."""
    return {**bucket, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "dags"), str(ROOT / "tests")])}


def our_command(server: Server, database: str = OURS) -> list[str]:
    """Command for the process of our steps."""
    return module("clients.ours", str(server.cluster.home), str(server.cluster.port), database)


def ours_first(server: Server, bucket: Mapping[str, str]) -> Contender:
    """Our steps, for a month that is not loaded."""
    return Contender(
        name=OURS_FIRST,
        label="ours, first load",
        command=our_command(server),
        line=MONTH,
        database=OURS,
        prepare=without_month(MONTH),
        rows=OUR_SALES,
        sums=OUR_MONTHLY,
        environment=our_environment(bucket),
    )


def all_groups(
    server: Server, folder: Path, bucket: Mapping[str, str], peers_python: str | None
) -> list[list[Contender]]:
    """All contenders; those of a group follow each other, because the second needs what the first leaves."""
    url, file = server.url(OTHERS), str(folder / "sales" / MONTH / "sales.csv")
    table = f"{SCHEMA}.sales"
    copy = module("clients.psql_copy", str(server.cluster.programs / "psql"), url, file, table)
    first = ours_first(server, bucket)
    again = Contender(**{**vars(first), "name": OURS_AGAIN, "label": "ours, same month again", "prepare": ""})
    literal = module("clients.delete_insert", url, SCHEMA, str(folder))
    groups = [
        [Contender(COPY, "\\copy, index on date", copy, prepare=LOGGED)],
        [Contender("copy_unlogged", "\\copy, unlogged, no index", copy, prepare=UNLOGGED)],
        [first, again],
        [
            Contender(
                "delete_insert_first",
                "delete-insert, first load",
                literal,
                MONTH,
                OTHERS,
                DELETE_INSERT,
                sums=ALL_MONTHLY,
            ),
            Contender("delete_insert_again", "delete-insert, same month again", literal, MONTH, sums=ALL_MONTHLY),
        ],
    ]
    if peers_python:
        sqlalchemy_url = server.cluster.url(OTHERS)
        quiet = {"RUNTIME__DLTHUB_TELEMETRY": "false"}
        for name, label, arguments in (
            ("polars_adbc", "polars + ADBC, no index", [url, file, table]),
            ("dlt_arrow", "dlt with Arrow + ADBC, no index", [url, file, SCHEMA, "sales"]),
            ("dlt_read_csv", "dlt with read_csv, no index", [url, file, SCHEMA, "sales"]),
            ("pandas_to_sql", "pandas to_sql, no index", [sqlalchemy_url, file, SCHEMA, "sales"]),
        ):
            command = module(f"peers.{name}", *arguments, python=peers_python)
            groups.append([Contender(name, label, command, prepare=EMPTY, environment=quiet)])
    return groups


def prepare(server: Server, contender: Contender) -> None:
    """Make what the contender needs."""
    if contender.prepare:
        with server.connect(contender.database) as connection:
            connection.execute(contender.prepare.encode())


def check(server: Server, contender: Contender, wanted: Month) -> None:
    """Look whether the contender did its work.

    Raises:
        BenchError: rows or sums are not those of the file.
    """
    year, month = int(MONTH[:4]), int(MONTH[5:7])
    days = {"month": MONTH, "next": f"{year + month // 12}-{month % 12 + 1:02}-01"}
    with server.connect(contender.database) as connection:
        [(rows, cents)] = connection.execute(contender.rows.encode(), days).fetchall()
        found = [(rows, cents)]
        if contender.sums:
            [(summed,)] = connection.execute(contender.sums.encode(), days).fetchall()
            found.append((rows, summed))
    if any(pair != (wanted.rows, wanted.cents) for pair in found):
        raise BenchError(f"{contender.label}: (rows, cents) are {found}, and the file has {wanted}.")
