"""The feature store: ours against a literal delete-insert of the same rows."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import psycopg

from bench.clients import FEATURES
from bench.contenders import our_command, our_environment
from bench.machine import describe, show
from bench.processes import Answer, BenchError, started
from bench.server import DURABLE, OURS, Server, measured, started_server
from bench.text import MB, print_table, spread

ACTIVITIES = 5
CHANGED_OF = 100

# In an order that is none, as files may come.
DATA = f"""
    insert into public.customer_profiles (idx, attr_a, attr_b, attr_c)
    select idx, idx %% 101, chr(65 + idx %% 5), 'c' || idx %% 10
    from generate_series(1, %(clients)s::integer) as idx
    order by hashint4(idx), idx;

    insert into public.customer_activity (idx, valid_from, valid_to, scd_a, scd_b)
    select
        idx,
        date '2020-01-01' + number * 30,
        case when number < {ACTIVITIES} then date '2020-01-01' + (number + 1) * 30 end,
        (idx * 7 + number) / 3.0,
        (idx + number) %% 50
    from generate_series(1, %(clients)s::integer) as idx
    cross join generate_series(1, {ACTIVITIES}) as number
    order by hashint4(idx * {ACTIVITIES} + number), idx, number;

    insert into public.labels (idx, label)
    select idx, idx %% 2
    from generate_series(1, %(clients)s::integer) as idx
    order by hashint4(-idx), idx
"""  # noqa: S608 - constants
QUERY = """
    select profiles.idx, profiles.attr_a, profiles.attr_b, latest.scd_a, latest.scd_b, labelled.label
    from (select distinct idx, attr_a, attr_b from public.customer_profiles) as profiles
    inner join (
        select distinct on (idx) idx, scd_a, scd_b
        from public.customer_activity
        order by
            idx, valid_to desc nulls first, valid_from desc, scd_a desc nulls last, scd_b desc nulls last
    ) as latest
        on profiles.idx = latest.idx
    inner join (select distinct idx, label from public.labels) as labelled
        on profiles.idx = labelled.idx
"""
COPY_TABLE = "create schema bench; create table bench.feature_store (like public.feature_store including all)"
INSERT = f"insert into bench.feature_store (idx, attr_a, attr_b, scd_a, scd_b, label) {QUERY}"
CHANGE = f"""
    update public.customer_activity
    set scd_a = scd_a + 1
    where valid_to is null and idx %% {CHANGED_OF} = %(which)s
"""  # noqa: S608
DIFFERENT = f"""
    with wanted as ({QUERY}),
    found as (select idx, attr_a, attr_b, scd_a, scd_b, label from {{table}})

    select
        (select count(*) from wanted),
        (select count(*) from (table wanted except all table found) as lacking)
        + (select count(*) from (table found except all table wanted) as extra)
"""  # noqa: S608
COUNTS = """
    select n_tup_ins, n_tup_upd, n_tup_del
    from pg_catalog.pg_stat_user_tables
    where schemaname = %(schema)s and relname = 'feature_store'
"""

YARDSTICK, FIRST, CHANGED, SAME = "delete_insert", "ours_first", "ours_changed", "ours_same"
LABELS = {
    YARDSTICK: "delete-insert",
    FIRST: "ours, first build",
    CHANGED: f"ours, {100 // CHANGED_OF} % of the clients changed",
    SAME: "ours, nothing changed",
}


def run(settings: Mapping[str, str], clients: int, rounds: int) -> dict[str, Any]:
    """Build it in turn: by delete-insert, by ours from nothing, by ours after a change, and once more."""
    with started_server(settings) as server, server.connect(OURS) as admin:
        machine = describe(server.connection, DURABLE)
        show(machine)
        print(f"{clients:,} clients, {ACTIVITIES * clients:,} activities, {rounds} rounds\n", flush=True)
        for statement in DATA.split(";"):
            admin.execute(statement.encode(), {"clients": clients})
        admin.execute(COPY_TABLE)
        admin.execute(INSERT.encode())
        runs = []
        for number in range(rounds):
            for name in _order(number):
                answer = _measure(server, admin, name, number)
                print(f"round {number + 1}: {LABELS[name]}: {answer['seconds']:.2f} s", flush=True)
                runs.append({"contender": name, "round": number + 1, **answer})
            [yardstick] = [run["seconds"] for run in runs[-len(LABELS) :] if run["contender"] == YARDSTICK]
            runs[-len(LABELS) :] = [{**run, "ratio": run["seconds"] / yardstick} for run in runs[-len(LABELS) :]]
    found = {"machine": machine, "clients": clients, "rounds": rounds, "labels": LABELS, "runs": runs}
    print_features(found)
    return found


def _order(number: int) -> list[str]:
    # Ours keep their order, because each needs what the one before leaves; the other goes before them or after.
    ours = [FIRST, CHANGED, SAME]
    return [YARDSTICK, *ours] if number % 2 == 0 else [*ours, YARDSTICK]


def _measure(server: Server, admin: psycopg.Connection[Any], name: str, number: int) -> Answer:
    if name == CHANGED:
        admin.execute(CHANGE.encode(), {"which": number % CHANGED_OF})
    # As tables are that have been there for a while.
    admin.execute("vacuum analyze")
    if name == FIRST:
        # After the vacuum, as a table that was never filled.
        admin.execute("truncate public.feature_store")
    table = "bench.feature_store" if name == YARDSTICK else "public.feature_store"
    before = _counts(server, table)
    work = _delete_insert if name == YARDSTICK else _ours
    answer = work(server)
    changes = dict(
        zip(("inserted", "updated", "deleted"), map(int.__sub__, _counts(server, table), before), strict=True)
    )
    _check(admin, table, name)
    return {**answer, **changes}


def _delete_insert(server: Server) -> Answer:
    def work() -> Answer:
        begin = time.perf_counter()
        with server.connect(OURS) as connection, connection.transaction():
            connection.execute("delete from bench.feature_store")
            connection.execute(INSERT.encode())
        return {"seconds": time.perf_counter() - begin}

    return measured(server, work)


def _ours(server: Server) -> Answer:
    with started(our_command(server), our_environment({})) as ask, reader(server) as longest_wait:
        answer = measured(server, lambda: ask(FEATURES))
        return {**answer, "longest_wait_seconds": longest_wait()}


@contextlib.contextmanager
def reader(server: Server) -> Iterator[Callable[[], float]]:
    """Somebody who looks up clients all the time, as ds_user; gives a function that tells the longest wait so far."""
    waits = [0.0]
    failures: list[Exception] = []
    end = threading.Event()

    def read() -> None:
        try:
            with server.connect(OURS, "ds_user") as connection:
                while not end.wait(0.002):
                    begin = time.perf_counter()
                    connection.execute("select label from public.feature_store where idx = 1").fetchall()
                    waits[0] = max(waits[0], time.perf_counter() - begin)
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield lambda: waits[0]
    finally:
        end.set()
        thread.join()
    if failures:
        raise BenchError(f"a reader of the feature store failed: {failures[0]}")


def _counts(server: Server, table: str) -> list[int]:
    with server.connect(OURS) as connection:
        [counts] = connection.execute(COUNTS.encode(), {"schema": table.split(".")[0]}).fetchall()
    return [int(count) for count in counts]


def _check(admin: psycopg.Connection[Any], table: str, name: str) -> None:
    [(rows, different)] = admin.execute(DIFFERENT.format(table=table).encode()).fetchall()
    if rows == 0 or different != 0:
        raise BenchError(
            f"{LABELS[name]}: {different} rows of {table} are not what delete-insert would make of {rows}."
        )


def print_features(found: dict[str, Any]) -> None:
    """Print what it says."""
    lines = []
    for name, label in found["labels"].items():
        own = [run for run in found["runs"] if run["contender"] == name]
        waits = [run["longest_wait_seconds"] for run in own if "longest_wait_seconds" in run]
        lines.append(
            [
                label,
                spread([run["seconds"] for run in own]),
                spread([run["ratio"] for run in own]),
                f"{median(run['wal_bytes'] for run in own) / MB:.1f}",
                *(f"{median(run[change] for run in own):,.0f}" for change in ("inserted", "updated", "deleted")),
                f"{1000 * max(waits):.0f}" if waits else "",
            ]
        )
    print(
        "\nMedian (range); rows by pg_stat_user_tables; the longest that a reader of one client waited in any round\n"
    )
    print_table(["", "seconds", "ratio", "WAL MB", "inserted", "updated", "deleted", "longest wait ms"], lines)
