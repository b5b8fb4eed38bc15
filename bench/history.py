"""What a month costs when more and more months are there, and what loading one again costs in time and on disk."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.contenders import COLUMNS, MONTHLY, module, our_command, our_environment, without_month
from bench.files import HEADER, Month, bucket, warm, write_sales, write_stores
from bench.machine import describe, show
from bench.processes import Answer, Ask, BenchError, started
from bench.server import DURABLE, FRESH, OTHERS, OURS, Server, measured, started_server
from bench.text import MB, print_table, spread

FIRST_YEAR = 2014
AGAIN = 10
PAIRS = 20
LEAST_MONTHS = 3

FIRST, LAST, MIDDLE, MIDDLE_AGAIN = "month 1", "last month", "middle month", "middle month again"

LABELS = {
    OURS: "ours",
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
    """Load months one after the other, ours and two others in turn; then compare ours with and without them."""
    if months < LEAST_MONTHS:
        raise BenchError(f"{months} months have no first, middle and last one: it takes {LEAST_MONTHS}.")
    with (
        started_server(settings, (OURS, FRESH)) as server,
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
        commands = {name: (our_command(server, name), our_environment(addresses)) for name in (OURS, FRESH)}
        for schema in ("indexed", "unindexed"):
            server.connection.execute(TABLES.format(schema=schema).encode())
            commands[schema] = (module("clients.delete_insert", server.url(OTHERS), schema, str(folder)), {})
        server.connection.execute(INDEX)
        ask = {name: processes.enter_context(started(*command)) for name, command in commands.items()}
        bench = Bench(server, folder, addresses, template.read_bytes(), ask)

        loads = [load for number in range(months) for load in _load_all(bench, number)]
        _vacuum(server)
        before = _sizes(server)
        middle = months // 2
        for _ in range(AGAIN):
            _load(bench, OURS, middle)
        _vacuum(server)
        after = _sizes(server)
        pairs = [pair for number in range(PAIRS) for pair in _compare(bench, months, number)]
        _check(server, Month(months * month.rows, months * month.cents))
    found = {
        "machine": machine,
        "months": months,
        "rows": rows,
        "labels": LABELS,
        "loads": loads,
        "pairs": pairs,
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
    names = list(LABELS)
    # Everybody goes first in every third month.
    order = names[number % 3 :] + names[: number % 3]
    loads = [{"contender": name, "month": number + 1, **_load(bench, name, number)} for name in order]
    if number % 10 == 0:
        seconds = ", ".join(f"{load['contender']} {load['seconds']:.2f} s" for load in loads)
        print(f"month {number + 1}: {seconds}", flush=True)
    return loads


def _compare(bench: Bench, months: int, number: int) -> list[Answer]:
    """Each kind of month once, close to each other in time: the machine is not as fast all day."""
    kinds = {
        FIRST: (FRESH, 0),
        LAST: (OURS, months - 1),
        MIDDLE: (OURS, months // 2),
        MIDDLE_AGAIN: (OURS, months // 2),
    }
    # The middle month's second load needs the first; the others take turns in going first.
    order = [FIRST, LAST, MIDDLE, MIDDLE_AGAIN] if number % 2 else [MIDDLE, MIDDLE_AGAIN, LAST, FIRST]
    answers = []
    for kind in order:
        database, month = kinds[kind]
        if kind != MIDDLE_AGAIN:
            with bench.server.connect(database) as connection:
                connection.execute(without_month(month_name(month)).encode())
        answers.append({"kind": kind, "round": number + 1, **_load(bench, database, month)})
    return answers


def _vacuum(server: Server) -> None:
    """What autovacuum would do by and by, and then would be at work beside the loads."""
    for database in (OURS, FRESH, OTHERS):
        with server.connect(database) as connection:
            connection.execute("vacuum analyze")


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
    months = found["months"]
    print(f"\nA month of {found['rows']:,} sales when others are there: seconds, median (range)\n")
    timeline = {
        name: [load["seconds"] for load in found["loads"] if load["contender"] == name] for name in found["labels"]
    }
    tenth = max(months // 12, 1)
    print_table(
        ["", f"months 1-{tenth}", f"months {months - tenth + 1}-{months}"],
        [
            [found["labels"][name], spread(values[:tenth], 3), spread(values[-tenth:], 3)]
            for name, values in timeline.items()
        ],
    )
    print(f"\nOurs, each kind of month once a round, {PAIRS} rounds; the ratio is to the kind before the slash\n")
    seconds = {
        kind: [
            pair["seconds"] for pair in sorted(found["pairs"], key=lambda pair: pair["round"]) if pair["kind"] == kind
        ]
        for kind in (FIRST, LAST, MIDDLE, MIDDLE_AGAIN)
    }
    cpu = {kind: median(pair["cpu_seconds"] for pair in found["pairs"] if pair["kind"] == kind) for kind in seconds}
    lines = []
    for kind, base in ((FIRST, FIRST), (LAST, FIRST), (MIDDLE, MIDDLE), (MIDDLE_AGAIN, MIDDLE)):
        ratios = [own / other for own, other in zip(seconds[kind], seconds[base], strict=True)]
        label = kind if kind == base else f"{base} / {kind}"
        lines.append([label, spread(seconds[kind], 3), f"{cpu[kind]:.3f}", f"{median(ratios):.3f}"])
    print_table(["", "seconds", "server CPU s", "ratio"], lines)
    one_month = found["bytes_before"][0] / months
    print(f"\nThe middle month loaded {AGAIN} times more:")
    for what, before, after in zip(
        ("all partitions", "the database"), found["bytes_before"], found["bytes_after"], strict=True
    ):
        print(
            f"{what}: {before / MB:,.2f} MB before and {after / MB:,.2f} MB after, "
            f"{100 * (after - before) / one_month:+.2f} % of one month ({one_month / MB:.2f} MB)",
            flush=True,
        )
