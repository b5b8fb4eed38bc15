"""The PostgreSQL that everything is measured on, and what a piece of work costs it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg

from bench.processes import ROOT, Answer, BenchError
from local.postgres import Cluster

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

# Ours in a migrated database; all others in another, so that the size of ours is its own. FRESH is migrated too, and
# has no history.
OURS, FRESH, OTHERS = "companydata", "fresh", "others"


@dataclass(frozen=True)
class Server:
    """A running cluster with its databases.

    Attributes:
        cluster: the cluster.
        connection: as admin, to the database of the others.
    """

    cluster: Cluster
    connection: psycopg.Connection[Any]

    def url(self, database: str, user: str = "admin") -> str:
        """Address of a database, as libpq and most libraries read it."""
        return self.cluster.url(database, user, user, "postgresql")

    def connect(self, database: str, user: str = "admin") -> psycopg.Connection[Any]:
        """A new connection."""
        return psycopg.connect(self.url(database, user), autocommit=True)


@contextlib.contextmanager
def started_server(settings: Mapping[str, str], migrated: Sequence[str] = (OURS,)) -> Iterator[Server]:
    """A durable cluster with migrated databases and one for the others, gone at the end."""
    with Cluster.temporary({**DURABLE, **settings}) as cluster:
        with psycopg.connect(cluster.url("postgres", driver="postgresql"), autocommit=True) as connection:
            for database in (*migrated, OTHERS):
                connection.execute(f"create database {database} template template0 owner admin".encode())
        for database in migrated:
            done = subprocess.run(
                [sys.executable, "-m", "alembic", "upgrade", "head"],
                env={**os.environ, "DATABASE_URL": cluster.url(database)},
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise BenchError(f"alembic upgrade head failed:\n{done.stderr}")
        with psycopg.connect(cluster.url(OTHERS, driver="postgresql"), autocommit=True) as connection:
            yield Server(cluster, connection)


def measured(server: Server, work: Callable[[], Answer]) -> Answer:
    """The answer of some work, with what it cost the server.

    A checkpoint goes before it, as in life: a month after the last load every page is written whole once more.
    """
    server.connection.execute("checkpoint")
    sessions, cpu, wal = _sessions(server), cpu_seconds(server), _wal_position(server)
    answer = work()
    _wait_for_end_of_sessions(server, sessions)
    return {**answer, "cpu_seconds": cpu_seconds(server) - cpu, "wal_bytes": _wal_position(server) - wal}


def cpu_seconds(server: Server) -> float:
    """CPU time of the server so far: of its living processes, and of those that have ended."""
    postmaster = psutil.Process(int((server.cluster.data / "postmaster.pid").read_text().split()[0]))
    for _ in range(100):
        ended = _ended_seconds(postmaster)
        with contextlib.suppress(psutil.NoSuchProcess):
            own = [process.cpu_times() for process in [postmaster, *postmaster.children(recursive=True)]]
            # A process that ended meanwhile would count twice or not at all.
            if _ended_seconds(postmaster) == ended:
                return ended + sum(times.user + times.system for times in own)
    raise BenchError("the server's processes come and go too fast to add up their time.")


def _sessions(server: Server) -> set[int]:
    rows = server.connection.execute(
        "select pid from pg_catalog.pg_stat_activity where backend_type = 'client backend'"
    )
    return {pid for (pid,) in rows.fetchall()}


def _wait_for_end_of_sessions(server: Server, before: set[int]) -> None:
    # Only a session that is gone has handed in its CPU time and its statistics.
    for _ in range(1000):
        if _sessions(server) <= before:
            return
        time.sleep(0.01)
    raise BenchError("a session of the work that was measured does not end.")


def _ended_seconds(postmaster: psutil.Process) -> float:
    times = postmaster.cpu_times()
    return float(times.children_user + times.children_system)


def _wal_position(server: Server) -> int:
    [(position,)] = server.connection.execute("select pg_current_wal_lsn() - '0/0'::pg_lsn").fetchall()
    return int(position)
