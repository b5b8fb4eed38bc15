"""What a month costs when more and more months are there, and what loading one again costs in time and on disk."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import COLUMNS, MONTHLY, module, our_command, our_environment
from bench.files import HEADER, Month, bucket, warm, write_sales, write_stores
from bench.machine import describe, show
from bench.processes import Answer, Ask, BenchError, started
from bench.server import DURABLE, OTHERS, OURS, Server, measured, started_server
from bench.text import MB, print_table, spread

FIRST_YEAR = 2014
AGAIN = 10
LEAST_MONTHS = 12
EARLY, LATE = slice(1, 11), slice(-10, None)

LABELS = {
    "ours": "ours",
    "indexed": "delete-insert, index on date",
    "unindexed": "delete-insert, no index",
}
TABLES = f"""
    create schema {{schema}};
    create table {{schema}}.sales ({COLUMNS});
    create unlogged table {{schema}}.staging ({COLUMNS});
    create table {{schema}}.monthly_sales ({MONTHLY}, primary key (sale_month, store_idx));
"""
INDEX = "create index on indexed.sales (date)"
SIZES = """
    select
        (
            select coalesce(sum(pg_total_relation_size(relid)), 0)
            from pg_partition_tree('public.sales')
        )::bigint,
        pg_database_size(current_database())
"""


@dataclass(frozen=True)
class Bench:
    """What a load needs: the server, the files, and the processes that load."""

    server: Server
    folder: Path
    addresses: dict[str, str]
    template: bytes
    ask: dict[str, Ask]


def run(settings: Mapping[str, str], months: int, rows: int) -> dict[str, Any]:
    """Load months one after the other, ours and two others in turn; then one in the middle again and again."""
    if months < LEAST_MONTHS:
        raise BenchError(f"{months} months are no history: it takes {LEAST_MONTHS} to compare the last with the first.")
    with (
        started_server(settings) as server,
        tempfile.TemporaryDirectory(prefix="bench-") as place,
        contextlib.ExitStack() as processes,
    ):
        machine = describe(server.connection, DURABLE)
        show(machine)
        folder = Path(place) / "bucket"
        template = Path(place) / "template.csv"
        month = write_sales(template, month_name(0), rows)
        write_stores(folder_made(folder))
        addresses = processes.enter_context(bucket(folder, Path(place) / "certificates"))
        commands = {"ours": (our_command(server), our_environment(addresses))}
        for schema in ("indexed", "unindexed"):
            server.connection.execute(TABLES.format(schema=schema).encode())
            commands[schema] = (module("clients.delete_insert", server.url(OTHERS), schema, str(folder)), {})
        server.connection.execute(INDEX)
        ask = {name: processes.enter_context(started(*command)) for name, command in commands.items()}
        bench = Bench(server, folder, addresses, template.read_bytes(), ask)

        loads = [load for number in range(months) for load in _load_all(bench, number)]
        middle = months // 2
        before = _sizes(server)
        again = [_load(bench, "ours", middle)["seconds"] for _ in range(AGAIN)]
        after = _sizes(server)
        _check(server, Month(months * month.rows, months * month.cents))
    found = {
        "machine": machine,
        "months": months,
        "rows": rows,
        "labels": LABELS,
        "loads": loads,
        "middle": middle + 1,
        "again": again,
        "bytes_before": before,
        "bytes_after": after,
    }
    print_history(found)
    return found


def month_name(number: int) -> str:
    """First day of the month with this number, counted from 0."""
    return f"{FIRST_YEAR + number // 12}-{number % 12 + 1:02}-01"


def folder_made(folder: Path) -> Path:
    """The folder, which now exists."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _load_all(bench: Bench, number: int) -> list[Answer]:
    names = list(bench.ask)
    # Everybody goes first in every third month.
    order = names[number % 3 :] + names[: number % 3]
    loads = [{"contender": name, "month": number + 1, **_load(bench, name, number)} for name in order]
    if number % 10 == 0:
        seconds = ", ".join(f"{load['contender']} {load['seconds']:.2f} s" for load in loads)
        print(f"month {number + 1}: {seconds}", flush=True)
    return loads


def _load(bench: Bench, name: str, number: int) -> Answer:
    month = month_name(number)
    path = f"sales/{month}/sales.csv"
    file = bench.folder / path
    folder_made(file.parent)
    file.write_bytes(HEADER + bench.template[len(HEADER) :].replace(month_name(0)[:8].encode(), month[:8].encode()))
    warm(bench.addresses, path)
    answer = measured(bench.server, lambda: bench.ask[name](month))
    file.unlink()
    return answer


def _sizes(server: Server) -> tuple[int, int]:
    # A dropped table leaves the disk at the next checkpoint.
    server.connection.execute("checkpoint")
    with server.connect(OURS) as connection:
        [(tables, database)] = connection.execute(SIZES).fetchall()
    return int(tables), int(database)


def _check(server: Server, wanted: Month) -> None:
    for database, table in ((OURS, "public.sales"), (OTHERS, "indexed.sales"), (OTHERS, "unindexed.sales")):
        with server.connect(database) as connection:
            query = f"select count(*), 100 * sum(value) from {table}"  # noqa: S608 - constants
            [(rows, cents)] = connection.execute(query.encode()).fetchall()
        if (rows, cents) != (wanted.rows, wanted.cents):
            raise BenchError(f"{table}: rows and cents are {rows} and {cents}, and the files have {wanted}.")


def print_history(found: dict[str, Any]) -> None:
    """Print what it says."""
    seconds = {
        name: [load["seconds"] for load in found["loads"] if load["contender"] == name] for name in found["labels"]
    }
    months, middle = found["months"], found["middle"]
    print(f"\nMonth {months} against month 1, {found['rows']:,} rows a month: seconds, median (range)\n")
    print_table(
        ["", "months 2-11", f"months {months - 9}-{months}", "ratio"],
        [
            [
                found["labels"][name],
                spread(values[EARLY], 3),
                spread(values[LATE], 3),
                f"{median(values[LATE]) / median(values[EARLY]):.3f}",
            ]
            for name, values in seconds.items()
        ],
    )
    first = seconds["ours"][max(middle - 6, 0) : middle + 5]
    print(
        f"\nours, month {middle} again, {len(found['again'])} times: {spread(found['again'], 3)} s, "
        f"first loads around it {spread(first, 3)} s, ratio {median(found['again']) / median(first):.3f}"
    )
    one_month = found["bytes_before"][0] / months
    for what, before, after in zip(
        ("all partitions", "the database"), found["bytes_before"], found["bytes_after"], strict=True
    ):
        print(
            f"{what}: {before / MB:,.2f} MB before and {after / MB:,.2f} MB after, "
            f"{100 * (after - before) / one_month:+.2f} % of one month ({one_month / MB:.2f} MB)",
            flush=True,
        )
