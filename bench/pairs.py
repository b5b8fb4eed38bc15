"""Features for pairs of a client and a day: the history, the query people write by hand, and from frame to frame."""

from contextlib import ExitStack

from bench.customers import FEATURES, LOADS, VACUUM, write_files
from bench.rounds import Contender, Process, compare, here
from bench.server import ROOT, Answer, BenchError, Server, started

DATABASE, DAY = "ours", "date '2020-04-04'"

PAIRS = (
    "select n as position, 1 + abs(hashint4(n)::bigint) % {clients} as idx,"
    " date '2020-01-01' + (abs(hashint4(-n)::bigint) % 300)::integer as day from generate_series(1, {pairs}) as n"
)
TABLES = (
    "create schema bench",
    "create table bench.pairs (position integer, idx integer, day date)",
)
COLUMNS = "position, pairs.idx, day, attr_a, attr_b, scd_a, scd_b, label"
ANSWERS = {
    "by hand": f"""
        select {COLUMNS}
        from (
            select distinct on (position) position, pairs.idx, day, scd_a, scd_b, activity.idx as client
            from bench.pairs
            left join public.customer_activity as activity on pairs.idx = activity.idx and valid_from <= day
            order by position, valid_from desc
        ) as pairs
        left join public.customer_profiles as profiles on client = profiles.idx
        left join public.labels on client = labels.idx
    """,
    "joined with feature_history": f"""
        select {COLUMNS}
        from bench.pairs
        left join public.feature_history as history
            on pairs.idx = history.idx and day >= valid_from and (day < valid_to or valid_to is null)
            and known_to is null
    """,
    "joined, known_at": f"""
        select {COLUMNS}
        from bench.pairs
        left join public.feature_history as history
            on pairs.idx = history.idx and day >= valid_from and (day < valid_to or valid_to is null)
            and known_from <= now() and (known_to > now() or known_to is null)
    """,
}
DAYS = {
    "all clients, as of a day": f"select * from public.feature_store_as_of({DAY})",
    "all clients, as of a day, known_at": f"select * from public.feature_store_as_of({DAY}, now())",
}
NOTHING_TO_COMPARE = "select 0 as different"
DIFFERENT = "select count(*) as different from ({query} except all select * from bench.wanted) as d"
# The server does all that it does for a client, but sends nothing.
ON_THE_SERVER = "explain (analyze, timing off, serialize) {query}"


def run(server: Server, clients: int, pairs: int, rounds: int, peers: str | None, feast: str | None) -> Answer:
    """Find the features of random pairs, in a table and from frame to frame, and of all clients on a day."""
    write_files(server, clients)
    file = server.write_csv("pairs.csv", PAIRS.format(clients=clients, pairs=pairs))
    server.create_database(DATABASE, ROOT)
    with server.dags(DATABASE, ROOT) as ask:
        ask(LOADS)
        ask(FEATURES)
    server.run(DATABASE, *TABLES)
    server.psql(DATABASE, server.copy_command("bench.pairs", file))
    server.run(DATABASE, VACUUM, f"create table bench.wanted as {ANSWERS['by hand']}")

    def contender(process: Process, check: str = NOTHING_TO_COMPARE) -> Contender:
        return Contender(server, DATABASE, process, "pairs", (), check, [{"different": 0}])

    def on_the_server(query: str) -> Process:
        return here(lambda _: server.psql(DATABASE, ON_THE_SERVER.format(query=query)))

    groups = [
        {label: contender(on_the_server(query), check=DIFFERENT.format(query=query))}
        for label, query in ANSWERS.items()
    ]
    groups += [{label: contender(on_the_server(query))} for label, query in DAYS.items()]
    with ExitStack() as stack:

        def frame(python: str, *module: str) -> dict[str, Contender]:
            command = [python, "-m", *module, server.url(DATABASE), str(server.folder / file)]
            process = here(stack.enter_context(started(command, {})))
            return {f"from frame to frame, {module[0].removeprefix('bench.')}": contender(process)}

        groups += [frame(peers, "bench.peers", "frame_of_pairs")] if peers else []
        groups += [frame(feast, "bench.feast_pairs")] if feast else []
        runs = compare(groups, rounds)
    answers = {(run["known"], round(run["sum_of_scd_a"])) for run in runs if "known" in run}
    if len(answers) > 1:
        raise BenchError(f"The frames differ: {answers}.")
    return {"machine": server.machine, "pairs": pairs, "runs": runs}
