"""The customer files: three loads in a row against COPY, and the feature store against a literal delete-insert."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.dags import AT_ONCE
from bench.rounds import Contender, Process, compare, here
from bench.sales import SCHEMA
from bench.server import OTHERS, Answer, Server

LOADS, FEATURES = "customer_data_load", "feature_store"

# In random order, as files may be.
FILES = {
    "customer_profiles": "select idx, idx % 101 as attr_a, chr(65 + idx % 5) as attr_b, 'c' || idx % 10 as attr_c"
    " from generate_series(1, {clients}) as idx order by hashint4(idx), idx",
    "customer_activity": "select idx, date '2020-01-01' + number * 30 as valid_from,"
    " case when number < 5 then date '2020-01-01' + (number + 1) * 30 end as valid_to,"
    " (idx * 7 + number) / 3.0::double precision as scd_a, (idx + number) % 50 as scd_b"
    " from generate_series(1, {clients}) as idx, generate_series(1, 5) as number"
    " order by hashint4(idx * 5 + number), idx, number",
    "labels": "select idx, idx % 2 as label from generate_series(1, {clients}) as idx order by hashint4(-idx), idx",
}
TABLES = (*SCHEMA, *(f"create table bench.{table} (like public.{table})" for table in FILES))
COUNTS = "select " + ", ".join(f"(select count(*) from {{schema}}.{table}) as {table}" for table in FILES)

QUERY = """
    select idx, attr_a, attr_b, scd_a, scd_b, label
    from (select distinct idx, attr_a, attr_b from public.customer_profiles) as profiles
    inner join (
        select distinct on (idx) idx, scd_a, scd_b
        from public.customer_activity
        order by idx, valid_to desc nulls first, valid_from desc, scd_a desc nulls last, scd_b desc nulls last
    ) as latest using (idx)
    inner join (select distinct idx, label from public.labels) as labelled using (idx)
"""
LITERAL = (*SCHEMA, "create table bench.feature_store (like public.feature_store including all)")
DELETE_INSERT = ("begin", "delete from bench.feature_store", f"insert into bench.feature_store {QUERY}", "commit")
# Not by a join of all columns, for which the planner expects one row.
DIFFERENT_ROWS = (
    "select count(*) as different, (select count(*) from {schema}.feature_store) as clients"
    f" from (select * from {{schema}}.feature_store except {QUERY}) as rows"
)
CHANGE = "update public.customer_activity set scd_a = scd_a + 1 where valid_to is null and idx % 100 = 7"
VACUUM = "vacuum analyze"
# A baseline may have no history.
EMPTY = (
    "do $$ begin truncate public.feature_history; exception when undefined_table then null; end $$",
    "truncate public.feature_store",
)
REBUILDS = {
    "first build": (VACUUM, *EMPTY),  # after the vacuum, as tables that were never filled
    "1 % changed": (CHANGE, VACUUM),
    "nothing changed": (VACUUM,),
}


def run_loads(server: Server, clients: int, rounds: int, checkouts: Mapping[str, Path]) -> Answer:
    """Load the files three times in a row: one file after the other, and at once as the scheduler does."""
    files = write_files(server, clients)
    expected = [{"customer_profiles": clients, "customer_activity": 5 * clients, "labels": clients}]
    copy = [server.copy_command(f"bench.{table}", file) for table, file in files.items()]
    process, check = here(lambda _: server.psql(OTHERS, *copy)), COUNTS.format(schema="bench")
    yardstick = Contender(server, OTHERS, process, "", TABLES, check, expected)
    groups = [{r"\copy, three files": yardstick}]
    with ExitStack() as processes:
        for name, checkout in checkouts.items():
            server.create_database(name, checkout)
            process = here(processes.enter_context(server.dags(name, checkout)))
            for how, line in (("one by one", LOADS), (AT_ONCE, f"{LOADS} {AT_ONCE}")):
                again = Contender(server, name, process, line, (), COUNTS.format(schema="public"), expected)
                first = replace(again, prepare=partial(server.create_database, name, checkout))
                groups.append({f"{name}, {how}, load {n}": load for n, load in enumerate((first, again, again), 1)})
        yardstick.run()  # creates the WAL files, which all later loads use again
        return {"machine": server.machine, "clients": clients, "runs": compare(groups, rounds)}


def run_features(server: Server, clients: int, rounds: int, checkouts: Mapping[str, Path]) -> Answer:
    """Rebuild the feature store: from nothing, after a change, and unchanged, against a literal delete-insert."""
    write_files(server, clients)

    def rebuild(name: str, process: Process, schema: str, *prepare: str) -> Contender:
        expected = [{"different": 0, "clients": clients}]
        return Contender(server, name, process, FEATURES, prepare, DIFFERENT_ROWS.format(schema=schema), expected)

    first = next(iter(checkouts))
    groups = [{"delete-insert": rebuild(first, here(lambda _: server.psql(first, *DELETE_INSERT)), "bench", VACUUM)}]
    with ExitStack() as processes:
        for name, checkout in checkouts.items():
            server.create_database(name, checkout)
            ask = processes.enter_context(server.dags(name, checkout))
            ask(LOADS)
            ours = partial(rebuild, name, here(ask), "public")
            groups.append({f"{name}, {what}": ours(*prepare) for what, prepare in REBUILDS.items()})
        server.run(first, *LITERAL)
        return {"machine": server.machine, "clients": clients, "runs": compare(groups, rounds)}


def write_files(server: Server, clients: int) -> dict[str, str]:
    """Write the three files; returns their paths by table."""
    return {table: server.write_csv(f"{table}.csv", query.format(clients=clients)) for table, query in FILES.items()}
