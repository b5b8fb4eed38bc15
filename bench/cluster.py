"""A Citus cluster against one server: the same work in a database of the cluster and in one of its coordinator."""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

import psycopg

from bench.customers import CHANGE, EMPTY, FEATURES, LOADS, VACUUM, write_files
from bench.pairs import ANSWERS, DAYS, PAIRS, TABLES
from bench.sales import DAG, MONTH, OF_MONTH, write_month
from bench.server import OTHERS, ROOT, Answer, Ask, BenchError, Server, call, describe
from deploy.citus.cluster import CitusCluster
from embedded.bucket import serve

PLAIN, CLUSTER = "bench_plain", "bench_cluster"
MONTH_QUERY = f"select store_idx, sum(value) from public.sales where {OF_MONTH.format(month=MONTH)} group by store_idx"
ONE_CLIENT = "select * from public.feature_store_at(array[%s], array[date '2020-04-04'])"
TOTALS = f"""
    select
        (select (count(*), sum(value))::text from public.sales) as sales,
        (select (count(*), sum(value))::text from public.monthly_sales) as monthly_sales,
        (select (count(*), sum(scd_b), sum(hashfloat8(scd_a)))::text from public.feature_store) as feature_store,
        (select (count(*), sum(valid_from - date '2020-01-01'))::text from public.feature_history) as feature_history,
        (select (count(*), sum(label))::text from ({ANSWERS["joined with feature_history"]}) as pairs) as pairs
"""
LABELS = "select count(label) from ({query}) as found"
PAIRS_IN_ARRAYS = """
    select count(label)
    from (select array_agg(idx) as clients, array_agg(day) as days from bench.pairs) as pairs
    cross join lateral public.feature_store_at(clients, days)
"""
ONE_DAY = f"select count(*) from public.sales where date = '{MONTH}' and store_idx = 7"
LOOKUPS = 1000
Work = Callable[[str], float]


def run(rows: int, clients: int, pairs: int, rounds: int) -> Answer:
    """Do each piece of work in both databases in turn; raises BenchError if the tables differ at the end."""
    with started() as server, ExitStack() as processes:
        write_month(server, MONTH, rows)
        write_files(server, clients)
        file = server.write_csv("pairs.csv", PAIRS.format(clients=clients, pairs=pairs))
        asks = {name: processes.enter_context(server.dags(name, ROOT)) for name in (PLAIN, CLUSTER)}
        for name in asks:
            server.run(name, *TABLES)
            server.psql(name, server.copy_command("bench.pairs", file))
        # Pairs are joined where the clients are.
        server.run(CLUSTER, "select create_distributed_table('bench.pairs', 'idx', colocate_with => 'public.labels')")
        found: dict[str, dict[str, list[float]]] = {}
        for number in range(rounds):
            for label, work in pieces_of_work(server, asks).items():
                for name in (PLAIN, CLUSTER) if number % 2 else (CLUSTER, PLAIN):
                    found.setdefault(label, {}).setdefault(name, []).append(work(name))
                medians = {name: median(seconds) for name, seconds in found[label].items()}
                ratio = medians[CLUSTER] / medians[PLAIN]
                print(f"{label}: {medians[PLAIN]:.4f} s, {medians[CLUSTER]:.4f} s, ratio {ratio:.2f}", flush=True)
        totals = {name: server.run(name, TOTALS) for name in asks}
        if totals[PLAIN] != totals[CLUSTER]:
            raise BenchError(f"The tables differ: {totals}.")
        return {"machine": server.machine, "rows": rows, "clients": clients, "runs": found}


@contextlib.contextmanager
def started() -> Iterator[Server]:
    """The servers of CITUS_NODES with a database of each kind, and a bucket."""
    with (
        CitusCluster.cleared() as cluster,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        serve(Path(folder)) as bucket,
        contextlib.redirect_stderr(io.StringIO()),  # the bucket's log of requests
    ):
        machine = f"{describe(cluster)}, {len(cluster.nodes)} servers"
        environment = {"SOURCE_BASE_URL": bucket.url, "SOURCE_CA_FILE": str(bucket.ca_file)}
        server = Server(cluster, Path(folder), environment, machine)
        try:
            for name in (OTHERS, PLAIN):
                server.create_database(name, ROOT)
            cluster.create_database(CLUSTER)
            call([sys.executable, "-m", "alembic", "upgrade", "head"], DATABASE_URL=cluster.url(CLUSTER))
            cluster.distribute(CLUSTER)
            yield server
        finally:
            for name in (OTHERS, PLAIN, CLUSTER):
                cluster.drop_database(name)


def pieces_of_work(server: Server, asks: dict[str, Ask]) -> dict[str, Work]:
    """What is measured, in an order in which each finds what it needs; a piece returns its seconds."""

    def task(line: str, *prepare: str) -> Work:
        def work(name: str) -> float:
            for statement in prepare:
                server.run(name, statement)
            begin = time.perf_counter()
            asks[name](line)
            return time.perf_counter() - begin

        return work

    def query(statement: str) -> Work:
        return lambda name: float(server.psql(name, statement)["seconds"])

    return {
        "month": task(f"{DAG} {MONTH}"),
        "month again": task(f"{DAG} {MONTH}"),
        "customers": task(LOADS),
        "features, first build": task(FEATURES, VACUUM, *EMPTY),
        "features, 1 % changed": task(FEATURES, CHANGE, VACUUM),
        "sum of a month by store": query(MONTH_QUERY),
        "all clients, as of a day": query(LABELS.format(query=DAYS["all clients, as of a day"])),
        "pairs in a table": query(LABELS.format(query=ANSWERS["joined with feature_history"])),
        "pairs in arrays": query(PAIRS_IN_ARRAYS),
        "one client, p50": lambda name: lookups(server, name)[49],
        "one client, p99": lambda name: lookups(server, name)[98],
        "longest read while a month is loaded again": lambda name: longest_read(server, name, asks[name]),
    }


def lookups(server: Server, name: str) -> list[float]:
    """Percentiles of the seconds that one client on one day takes, as its reader sees them."""
    seconds = []
    with psycopg.connect(server.url(name, "ds_user", "ds_user"), autocommit=True) as connection:
        for client in range(1, LOOKUPS + 101):
            begin = time.perf_counter()
            connection.execute(ONE_CLIENT, [client]).fetchall()
            seconds.append(time.perf_counter() - begin)
    return quantiles(seconds[100:], n=100)  # the first ones open connections and fill caches


def longest_read(server: Server, name: str, ask: Ask) -> float:
    """Load the month again while a reader asks for it in a loop; returns the longest time that it waited."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(server.url(name), autocommit=True) as reader:
        loading = pool.submit(ask, f"{DAG} {MONTH}")
        longest = 0.0
        while not loading.done():
            begin = time.perf_counter()
            reader.execute(ONE_DAY).fetchall()
            longest = max(longest, time.perf_counter() - begin)
        loading.result()
    return longest
