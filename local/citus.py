"""A Citus cluster that runs already: CITUS_NODES names its servers, the coordinator first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from local.postgres import ADMIN, Cluster

SETTING = "CITUS_NODES"
SHARDS = 8
# Of tests and benchmark: those that an interrupted run has left are dropped, so nobody else's may be called so.
DATABASES = (
    *("test_companydata", "test_migrated", "test_moved", "test_random", "test_interleaved"),
    *("bench_others", "bench_plain", "bench_cluster"),
)
ROLES = ("ds_user", "ds_user_role", "mle_user", "mle_user_role", "pipeline", "pipeline_owner")


@dataclass(frozen=True)
class CitusCluster(Cluster):
    """The servers of CITUS_NODES, each host:port. `admin`, with the password `admin`, is a superuser on all of them.

    The servers log in to each other with the documented passwords; that of pipeline_owner is `pipeline_owner`.
    """

    nodes: tuple[tuple[str, int], ...] = ()

    @classmethod
    @contextlib.contextmanager
    def given(cls) -> Iterator[CitusCluster]:
        """The cluster of the setting, with a role that can log in before it is migrated, and no role of ours after."""
        nodes = [node.strip().rpartition(":") for node in os.environ[SETTING].split(",")]
        cluster = cls(Path(), int(nodes[0][2]), nodes=tuple((host, int(port)) for host, _, port in nodes))
        for name in DATABASES:
            cluster.drop_database(name)
        cluster.drop_roles()
        for connection in cluster.each():
            connection.execute("create role pipeline_owner login password 'pipeline_owner'")
        try:
            yield cluster
        finally:
            cluster.drop_roles()

    def url(
        self, database: str, user: str = ADMIN, password: str | None = None, driver: str = "postgresql+psycopg2"
    ) -> str:
        """Address of a database on the coordinator."""
        return super().url(database, user, password, driver).replace("@127.0.0.1:", f"@{self.nodes[0][0]}:")

    def each(self, database: str = "postgres") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection as admin to each server in turn, the coordinator last."""
        for host, port in reversed(self.nodes):
            with psycopg.connect(
                host=host, port=port, dbname=database, user=ADMIN, password=self.password, autocommit=True
            ) as connection:
                yield connection

    def create_database(self, name: str, template: str = "template0", owner: str = ADMIN) -> None:
        """Create a database on each server, of which a cluster is made unless it is a copy of one."""
        for connection in self.each():
            # Citus itself is connected to the template.
            self._end_sessions(connection, template)
            connection.execute(f'create database "{name}" template "{template}" owner "{owner}"')
        if template == "template0":
            self.join(name)

    def join(self, name: str) -> None:
        """Make a cluster of the servers' databases of this name; a server that has none gets one."""
        for connection in self.each():
            if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                connection.execute(f'create database "{name}" template template0')
        for connection in self.each(name):
            connection.execute("create extension citus")
            # Enough for all servers to have some, and quick to make.
            connection.execute(f'alter database "{name}" set citus.shard_count = {SHARDS}')
        with psycopg.connect(self.url(name, driver="postgresql"), autocommit=True) as coordinator:
            coordinator.execute("select citus_set_coordinator_host(%s, %s)", self.nodes[0])
            for node in self.nodes[1:]:
                coordinator.execute("select citus_add_node(%s, %s)", node)

    def drop_database(self, name: str) -> None:
        """Drop a database on each server, ending its sessions and transactions; harmless when there is none."""
        with contextlib.suppress(psycopg.OperationalError):  # it does not exist
            for connection in self.each(name):
                prepared = "select gid from pg_prepared_xacts where database = current_database()"
                for (transaction,) in connection.execute(prepared).fetchall():
                    connection.execute(f"rollback prepared '{transaction}'")
        for connection in self.each():
            # Citus has a session of its own in each database, which would not end while the drop waits for it, and
            # comes back.
            connection.execute("update pg_database set datallowconn = false where datname = %s", [name])
            self._end_sessions(connection, name)
            connection.execute(f'drop database if exists "{name}" with (force)')

    def _end_sessions(self, connection: psycopg.Connection[Any], database: str) -> None:
        connection.execute(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s", [database]
        )

    def drop_roles(self) -> None:
        """Drop the roles that the migrations make, on each server."""
        for connection in self.each():
            connection.execute(f"drop role if exists {', '.join(ROLES)}")
