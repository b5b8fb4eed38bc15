"""A Citus cluster that runs already: CITUS_NODES names its servers, the coordinator first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from local.postgres import ADMIN, Cluster

SETTING = "CITUS_NODES"
SHARDS = 8
DATABASES = ("companydata", "migrated", "moved", "others", "plain", "cluster")  # what an interrupted run has left
ROLES = ("ds_user", "ds_user_role", "mle_user", "mle_user_role", "pipeline", "pipeline_owner")

# Tests of what Citus does not allow, or shows in another way: the beginning of the name, and the reason.
NOT_ON_A_CLUSTER = {
    "tests/test_feature_history.py::test_a_table_that_was_emptied_by_hand_is_built_again[feature_history]": (
        "truncate of a partitioned table by mle_user"
    ),
    "tests/test_feature_history.py::test_a_client_is_looked_up_by_an_index": "plans are the workers'",
    "tests/test_feature_history.py::test_what_is_known_now_does_not_read_superseded_rows": "plans are the workers'",
    "tests/test_privileges.py::test_a_table_that_is_created_later_is_read_by_ds_user_and_managed_by_mle_user[mle_user"
    " acting as its role]": "the servers do not log in as a role after set role",
    "tests/test_privileges.py::test_mle_user_writes_every_table": "truncate of a partitioned table by mle_user",
    "tests/test_privileges.py::test_public_holds_the_tables": "Citus has views in public",
    "tests/test_privileges.py::test_functions_with_the_rights_of_their_owner": "pipeline_owner can log in",
    "tests/test_first_publication.py::test_functions_and_views_on_a_closed_table_are_denied_too[mle_user]": "Citus does"
    " not copy a function with a return body",
    "tests/test_loads.py::test_every_session_of_a_task": "triggers on distributed tables",
    "tests/test_concurrency.py::test_a_reader_waits_only": "triggers on distributed tables",
    "tests/test_concurrency.py::test_a_rebuild_waits_for_another": "triggers on distributed tables",
    "tests/test_concurrency.py::test_a_row_that_vanishes": "foreign keys of local tables",
    "tests/test_concurrency.py::test_a_transaction_that_refers_to": "foreign keys of local tables",
}


@dataclass(frozen=True)
class CitusCluster(Cluster):
    """The servers of CITUS_NODES, each host:port. `admin`, with the password `admin`, is a superuser on all of them.

    The servers log in to each other with the documented passwords; that of pipeline_owner is `pipeline_owner`.
    """

    nodes: tuple[tuple[str, int], ...] = ()

    @classmethod
    @contextmanager
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

    def each(self, database: str = "postgres") -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """A connection as admin to each server in turn, the coordinator last."""
        for host, port in reversed(self.nodes):
            with psycopg.connect(
                host=host, port=port, dbname=database, user=ADMIN, password=self.password, autocommit=True
            ) as connection:
                yield connection

    def create_database(self, name: str, template: str, owner: str) -> None:
        """Create a database on each server, of which a cluster is made unless it is a copy of one."""
        for connection in self.each():
            # Citus itself is connected to the template.
            connection.execute(
                "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s", [template]
            )
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
        """Drop a database on each server."""
        for connection in self.each():
            connection.execute(f'drop database if exists "{name}" with (force)')

    def drop_roles(self) -> None:
        """Drop the roles that the migrations make, on each server."""
        for connection in self.each():
            connection.execute(f"drop role if exists {', '.join(ROLES)}")
