"""A Citus cluster that runs already, for tests and benchmark alone: CITUS_NODES names its servers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from embedded.postgres import ADMIN, Cluster, ClusterError
from services import SAFE_PATH

SETTING = "CITUS_NODES"
FOLDER = Path(__file__).parent
# Of tests and benchmark: those that an interrupted run has left are dropped, so no other may be called so.
DATABASES = (
    *("test_companydata", "test_migrated", "test_moved", "test_interleaved", "test_opened"),
    *("bench_others", "bench_plain", "bench_cluster"),
)
ROLES = ("ds_user", "ds_user_role", "mle_user", "mle_user_role", "pipeline", "pipeline_owner")


@dataclass(frozen=True)
class CitusCluster(Cluster):
    """The servers of CITUS_NODES, each host:port, the coordinator first; README.md says what they need."""

    nodes: tuple[tuple[str, int], ...] = ()

    @classmethod
    @contextlib.contextmanager
    def cleared(cls) -> Iterator[CitusCluster]:
        """The cluster of the setting without what an interrupted run has left, and without a role of ours after.

        Raises:
            ClusterError: the setting is missing, or a server has a database that no run has left.
        """
        if not os.environ.get(SETTING):
            raise ClusterError(f"{SETTING} names no servers: deploy/citus/README.md.")
        nodes = [node.strip().partition(":") for node in os.environ[SETTING].split(",")]
        with tempfile.TemporaryDirectory(prefix="company-data-") as home:
            Path(home).chmod(0o755)
            cluster = cls(
                Path(home), int(nodes[0][2] or 5432), nodes=tuple((host, int(port or 5432)) for host, _, port in nodes)
            )
            cluster._copy_programs()
            cluster._stop_where_others_are()
            for name in DATABASES:
                cluster.drop_database(name)
            cluster.drop_roles()
            try:
                yield cluster
            finally:
                cluster.drop_roles()

    def _stop_where_others_are(self) -> None:
        for connection in self.each():
            others = connection.execute(
                "select datname from pg_database where not datistemplate and datname <> all(%s) order by datname",
                [["postgres", *DATABASES]],
            ).fetchone()
            if others:
                raise ClusterError(
                    f"{connection.info.host}:{connection.info.port} has the database {others[0]}. Tests crash the"
                    f" servers and drop roles, so {SETTING} must name a cluster that is there for nothing else."
                )

    def url(self, database: str, user: str = ADMIN, password: str | None = None) -> str:
        """Address of a database on the coordinator."""
        return super().url(database, user, password).replace("@127.0.0.1:", f"@{self.nodes[0][0]}:")

    def each(self, database: str = "postgres") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection as admin to each server in turn, the coordinator last."""
        for host, port in reversed(self.nodes):
            with psycopg.connect(
                host=host,
                port=port,
                dbname=database,
                user=ADMIN,
                password=self.password,
                autocommit=True,
                options=SAFE_PATH,
            ) as connection:
                yield connection

    def create_database(self, name: str, template: str = "template0", owner: str = ADMIN) -> None:
        """Create a database on each server, as a copy of another one or new, and then with the extension.

        Raises:
            ValueError: DATABASES lacks the name, so nothing would drop what an interrupted run leaves.
        """
        if name not in DATABASES:
            raise ValueError(f"DATABASES lacks {name}.")
        for connection in self.each():
            self._close(connection, template)
        for connection in self.each():
            connection.execute(f'create database "{name}" template "{template}" owner "{owner}"')
        for connection in self.each():
            connection.execute(f'alter database "{template}" allow_connections {template != "template0"}')
        if template == "template0":
            for server in self.each(name):
                server.execute("create extension citus")

    def distribute(self, database: str) -> None:
        """Run distribute.sql on a database, as README.md says."""
        coordinator, *workers = (f"{host}:{port}" for host, port in self.nodes)
        self._psql(database, "distribute.sql", coordinator=coordinator, workers=",".join(workers))

    def take_back(self, database: str) -> None:
        """Run take_back.sql on a database, as README.md says."""
        self._psql(database, "take_back.sql")

    def _psql(self, database: str, file: str, **variables: str) -> None:
        settings = [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": "1", **variables}.items()]
        command = [str(self.programs / "psql"), "--no-psqlrc", "--quiet", *settings, f"--file={FOLDER / file}"]
        done = subprocess.run(
            [*command, self.url(database)],
            env={**os.environ, "OWNER_PASSWORD": "pipeline_owner"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ClusterError(f"{file} failed ({done.returncode}): {done.stderr.strip()}")

    def drop_database(self, name: str) -> None:
        """Drop a database on each server, ending its sessions and transactions; harmless when there is none."""
        for connection in self.each():
            if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                continue
            # Of a drop that was interrupted.
            connection.execute(f'alter database "{name}" allow_connections true')
            url = self.url(name)
            host, port = connection.info.host, connection.info.port
            with psycopg.connect(url, host=host, port=port, autocommit=True, options=SAFE_PATH) as inside:
                prepared = "select gid from pg_prepared_xacts where database = current_database()"
                for (transaction,) in inside.execute(prepared).fetchall():
                    inside.execute(f"rollback prepared '{transaction}'")
            self._close(connection, name)
            connection.execute(f'drop database "{name}" with (force)')

    def _close(self, connection: psycopg.Connection[Any], database: str) -> None:
        # Citus has sessions of its own in each database, which come back when they are ended.
        connection.execute(f'alter database "{database}" allow_connections false')
        connection.execute(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s", [database]
        )

    def drop_roles(self) -> None:
        """Drop the roles that the migrations make, on each server."""
        for connection in self.each():
            connection.execute(f"drop role if exists {', '.join(ROLES)}")
