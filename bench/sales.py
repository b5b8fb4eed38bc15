"""Months of sales: one month against psql, a literal delete-insert and other tools; and a month after many months."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.rounds import MB, SIZE, Contender, Process, compare, here
from bench.server import OTHERS, ROOT, Answer, Rows, Server, started

DAG = "sales_load_and_aggregation"
MONTH = "2024-02-01"
PEERS = ("polars_adbc", "dlt_arrow_adbc", "dlt_read_csv", "pandas_to_sql")
EMPTY, AGAIN, PAIRS = "empty", 10, 20
# The days are in random order, as in the sample bucket.
SALES = (
    "select idx, case when idx % 50 = 0 then -1 else 1 end"
    " * ((1 + abs(hashint8extended(idx, 1) % 500000)) / 100.0)::numeric(12, 2) as value,"
    " date '{month}' + abs(hashint8extended(idx, 2) % 28)::integer as date,"
    " 1 + abs(hashint8extended(idx, 3) % 200) as store_idx from generate_series(1, {rows}) as idx"
)
STORES = "select idx, 'city ' || idx as location from generate_series(1, 200) as idx"

SCHEMA = ("drop schema if exists bench cascade", "create schema bench")
UNLOGGED = (*SCHEMA, "create unlogged table bench.sales (like public.sales)")
LOGGED = (*SCHEMA, "create table bench.sales (like public.sales)")
INDEXED = (*LOGGED, "create index on bench.sales (date)")
LITERAL = (
    *INDEXED,
    "create unlogged table bench.staging (like public.sales)",
    "create table bench.monthly_sales (like public.monthly_sales including all)",
)
OF_MONTH = "date >= '{month}' and date < date '{month}' + interval '1 month'"
DELETE_INSERT = (
    "begin",
    f"delete from bench.sales where {OF_MONTH}",
    f"insert into bench.sales select * from bench.staging where {OF_MONTH}",
    "delete from bench.monthly_sales where sale_month = '{month}'",
    "insert into bench.monthly_sales (store_idx, location, sale_month, value)"
    f" select store_idx, '', '{{month}}', sum(value) from bench.sales where {OF_MONTH} group by store_idx",
    "commit",
)
# The statements of sql/sales/, without the ledger and the comparison with other months.
BY_HAND_TABLES = (
    *SCHEMA,
    "create table bench.sales (like public.sales) partition by range (date)",
    "create table bench.sales_of_month partition of bench.sales"
    " for values from ('{month}') to (date '{month}' + interval '1 month')",
    "create table bench.stores (like public.stores including all)",
    "insert into bench.stores select idx, 'city ' || idx from generate_series(1, 200) as idx",
    "create table bench.monthly_sales (like public.monthly_sales including all)",
)
BY_HAND = (
    "create temporary table checked as select store_idx, count(*), min(idx), max(date), sum(value)"
    " from bench.staged group by store_idx",
    "begin",
    f"delete from bench.sales where {OF_MONTH}",
    "insert into bench.sales select idx, value, date, store_idx from bench.staged",
    f"create temporary table sold as select store_idx, count(*), sum(value) as total from bench.sales where {OF_MONTH}"
    " group by store_idx",
    "delete from bench.monthly_sales where sale_month = '{month}'",
    "insert into bench.monthly_sales (store_idx, location, sale_month, value)"
    " select sold.store_idx, stores.location, '{month}', sold.total"
    " from sold inner join bench.stores on sold.store_idx = stores.idx",
    "drop table bench.staged",
    "commit",
)
# Some peers store floating point.
TOTALS = "select count(*), sum(value::numeric(12, 2)), sum(value::numeric(12, 2)) as of_stores from {sales}"
TOTALS_OF_STORES = f"""
    select count(*), sum(value), (
        select sum(value) from {{schema}}.monthly_sales where sale_month = '{{month}}') as of_stores
    from {{schema}}.sales where {OF_MONTH}
"""


def run_table(server: Server, rows: int, rounds: int, checkouts: Mapping[str, Path], python: str | None) -> Answer:
    """Load a month with all contenders in turn."""
    path = write_month(server, MONTH, rows)
    print(f"{rows:,} rows, {(server.folder / path).stat().st_size / MB:.0f} MB, {rounds} rounds", flush=True)
    expected = totals(server, rows)
    other = partial(Contender, server, OTHERS, line="", check=TOTALS.format(sales="bench.sales"), expected=expected)
    copy = here(lambda _: server.psql(OTHERS, server.copy_command("bench.sales", path)))
    yardstick = other(copy, prepare=INDEXED)
    groups = [
        {r"\copy, index on date": yardstick},
        {r"\copy, no index": other(copy, prepare=LOGGED)},
        {r"\copy, unlogged, no index": other(copy, prepare=UNLOGGED)},
    ]
    for name, checkout in checkouts.items():
        server.create_database(name, checkout)
        ours = partial(ours_of_month, server, name, partial(server.dags, name, checkout), MONTH, expected)
        groups.append(three_loads(name, ours(first=True), ours(first=False), "public"))
    process, check = here(partial(delete_insert, server)), TOTALS_OF_STORES.format(schema="bench", month=MONTH)
    literal = partial(Contender, server, OTHERS, process, MONTH, check=check, expected=expected)
    by_hand = replace(
        literal(prepare=tuple(each.format(month=MONTH) for each in BY_HAND_TABLES)),
        process=here(partial(load_by_hand, server)),
    )
    groups.append(three_loads("by hand", by_hand, replace(by_hand, prepare=()), "bench"))
    first, again = literal(prepare=LITERAL), literal(prepare=())
    groups.append({"delete-insert, first load": first, "delete-insert, same month again": again})
    for peer in PEERS if python else ():
        command = [str(python), "-m", "bench.peers", peer, server.url(OTHERS), str(server.folder / path)]
        process = partial(started, command, {"RUNTIME__DLTHUB_TELEMETRY": "false"})
        groups.append({f"{peer}, no index": other(process, prepare=SCHEMA)})
    yardstick.run()  # creates the WAL files, which all later loads use again
    return {"machine": server.machine, "rows": rows, "runs": compare(groups, rounds)}


def run_history(server: Server, months: int, rows: int) -> Answer:
    """Load months one after the other, ours and delete-insert in turn; then compare single months of ours."""
    names = [f"{2014 + number // 12}-{number % 12 + 1:02}-01" for number in range(months)]
    middle = names[months // 2]
    server.create_database("ours", ROOT)
    server.create_database(EMPTY, ROOT)
    server.run(OTHERS, *LITERAL)
    with server.dags("ours", ROOT) as ours, server.dags(EMPTY, ROOT) as in_empty:
        timeline: dict[str, list[float]] = {"ours": [], "delete-insert, index on date": []}
        for number, month in enumerate(names):
            write_month(server, month, rows)
            work = [partial(ours, f"{DAG} {month}"), partial(delete_insert, server, month)]
            for which in (0, 1) if number % 2 else (1, 0):
                list(timeline.values())[which].append(server.measured(work[which])["seconds"])
            if number % 10 == 0:
                print(month, *(f"{label}: {seconds[-1]:.2f} s" for label, seconds in timeline.items()), flush=True)
        before = server.run("ours", "vacuum analyze", *SIZE)[0]["database_bytes"]
        for _ in range(AGAIN):
            ours(f"{DAG} {middle}")
        after = server.run("ours", "vacuum analyze", *SIZE)[0]["database_bytes"]
        first = partial(ours_of_month, server, expected=totals(server, rows), first=True)
        again = partial(first, first=False)
        groups = [
            {"month 1, in an empty database": first(EMPTY, here(in_empty), names[0])},
            {f"month {months}": first("ours", here(ours), names[-1])},
            {
                "middle month": first("ours", here(ours), middle),
                "middle month again": again("ours", here(ours), middle),
            },
        ]
        pairs = compare(groups, PAIRS)
    growth = 100 * (after - before) / (before / months)
    print(f"{AGAIN} more loads of the middle month: the database grows by {growth:.2f} % of a month", flush=True)
    return {"machine": server.machine, "rows": rows, "timeline": timeline, "pairs": pairs, "growth": growth}


def write_month(server: Server, month: str, rows: int) -> str:
    """Write the file of a month (YYYY-MM-01) and stores.csv; returns the path of the first."""
    server.write_csv("stores.csv", STORES)
    return server.write_csv(f"sales/{month}/sales.csv", SALES.format(month=month, rows=rows))


def totals(server: Server, rows: int) -> Rows:
    """What a month's file holds."""
    return server.run(OTHERS, TOTALS.format(sales=f"({SALES.format(month=MONTH, rows=rows)})"))


def ours_of_month(
    server: Server, database: str, process: Process, month: str, expected: Rows, first: bool
) -> Contender:
    """Our load of a month, after it was removed as if it had never been loaded, or once more."""
    remove = (
        f"drop table if exists partitions.sales_{month[:7].replace('-', '_')}",
        f"delete from public.monthly_sales where sale_month = '{month}'",
    )
    check = TOTALS_OF_STORES.format(schema="public", month=month)
    return Contender(server, database, process, f"{DAG} {month}", remove if first else (), check, expected)


def three_loads(name: str, first: Contender, again: Contender, schema: str) -> dict[str, Contender]:
    """A month for the first time, again at once, and again after a vacuum."""
    return {
        f"{name}, first load": first,
        f"{name}, same month again": again,
        f"{name}, again after a vacuum": replace(again, prepare=(f"vacuum {schema}.sales",)),
    }


def load_by_hand(server: Server, month: str) -> Answer:
    """What the workflow does to the rows of a month, as a person would write it in psql."""
    in_month = OF_MONTH.format(month=month)
    copy = server.copy_command("bench.staged", f"sales/{month}/sales.csv").replace(
        "header true)", "header true, freeze)"
    )
    return server.psql(
        OTHERS,
        "begin",
        f"create table bench.staged (like public.sales, check ({in_month}))",
        copy,
        "set local default_statistics_target = 10",
        "analyze bench.staged",
        "commit",
        *(part.format(month=month) for part in BY_HAND),
    )


def delete_insert(server: Server, month: str) -> Answer:
    """COPY a month into staging; then delete and insert it in sales and in monthly_sales."""
    copy = server.copy_command("bench.staging", f"sales/{month}/sales.csv")
    return server.psql(OTHERS, "truncate bench.staging", copy, *(part.format(month=month) for part in DELETE_INSERT))
