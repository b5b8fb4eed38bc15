"""The file of a table that was being filled when the server crashed, as docs/operations.md finds it."""

import os
import re
import signal
import subprocess
from contextlib import suppress

import psycopg
import pytest
from conftest import ROOT, Database, new_database
from support.system import wait_for

from embedded.postgres import Cluster

pytestmark = pytest.mark.slow


def listed(database: Database) -> list[str]:
    """The files that the documented command lists."""
    [command] = re.findall(r"^psql [^`]*pg_filenode_relation[^`]*", (ROOT / "docs/operations.md").read_text(), re.M)
    address = "postgresql://admin:admin@localhost:5432/companydata"
    assert address in command
    done = subprocess.run(
        ["/usr/bin/env", "bash", "-ec", command.replace(address, f"'{database.url()}'")],
        env={"PATH": f"{os.environ['PATH']}:{database.cluster.programs}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return re.findall(r"base/\d+/\S+", done.stdout)


def test_the_file_of_a_copy_that_a_crash_cut_off_is_found_and_can_be_removed() -> None:
    with Cluster.temporary({"synchronous_commit": "on"}) as cluster:
        database = new_database(cluster, "companydata")
        database.run("create table sales (idx int)")
        database.run("insert into sales values (1)")
        assert listed(database) == []
        with suppress(psycopg.OperationalError), database.connect() as loading, loading.transaction():
            loading.execute("truncate sales")
            with loading.cursor().copy("copy sales from stdin with (freeze true)") as rows:
                rows.write(b"2\n" * 100_000)
                [(file,)] = database.run("""
                    select max(substring(file from '^[0-9]+')::int)
                    from pg_database, pg_ls_dir('base/' || oid) as file
                    where datname = current_database() and file ~ '^[0-9]'
                """)
                os.kill(loading.info.backend_pid, signal.SIGKILL)

        def answers() -> bool:
            with suppress(psycopg.OperationalError):
                return database.run("select idx from sales") == [(1,)]
            return False

        wait_for(answers)
        orphans = listed(database)
        assert [orphan for orphan in orphans if orphan.endswith(f"/{file}")]
        cluster.stop()
        for orphan in orphans:
            (cluster.data / orphan).unlink()
        cluster.start()
        assert listed(database) == []
        assert answers()
