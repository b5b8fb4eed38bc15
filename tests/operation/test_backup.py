"""A backup that is taken while a month loads comes back whole on a new server, and loads go on there."""

import os
import shutil
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import Database, Files, Rows
from psycopg.errors import CheckViolation
from psycopg.sql import Identifier
from support.bucket_files import write_customers, write_month
from support.steps import build_feature_store, connect, load_customers, load_month

from company_data import staging
from embedded.postgres import Cluster, ClusterError, free_port

pytestmark = pytest.mark.slow

VIEWS = """
    select oid::regclass::text from pg_class
    where relkind = 'v' and relnamespace::regnamespace::text in ('public', 'pipeline')
"""


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Cluster]:
    """An empty place for a server."""
    home = Cluster.new_home(tmp_path / "postgres")
    yield Cluster(home, 0)
    Cluster(home, 0).stop()
    shutil.rmtree(home)


def dump(database: Database) -> str:
    """Roles, privileges, definitions and rows of every database of its server, as SQL."""
    return database.client("pg_dumpall", "--host=127.0.0.1", f"--port={database.cluster.port}", "--username=admin")


def views(database: Database) -> dict[str, Rows]:
    return {name: sorted(database.run(f"select * from {name}"), key=repr) for (name,) in database.run(VIEWS)}


def test_a_backup_that_was_taken_while_a_month_loads_is_restored_whole_and_loads_go_on(
    database: Database, files: Files, new_server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_customers(files, ["1,10,A,xyz", "2,20,B,"], ["1,2020-01-01,,0.1,1", "2,2020-01-01,2020-06-30,0.2,2"])
    for month in ("2024-01", "2024-02"):
        write_month(files, month, f"1,10.10,{month}-01,1", f"2,0.20,{month}-09,1")
    load_customers(database)
    build_feature_store(database)
    load_month(database, "2024-01-01")
    database.run("create table public.predictions as select idx, 0.5 as score from feature_store", user="mle_user")
    database.run("create view public.scores as select score from public.predictions", user="mle_user")
    database.run("grant select on public.predictions to pipeline", user="mle_user")

    with connect(database) as loading:
        text = (files.folder / "sales/2024-02-01/sales.csv").read_bytes()
        begin = "select pipeline.begin_load('sales', '2024-02-01', 'https://here', 'a dag', 'a run')"
        [(load,)] = loading.execute(begin).fetchall()
        expected = dump(database)
        # The rows are in the table, and are not committed.
        with loading.transaction():
            [(table,)] = loading.execute("select pipeline.create_staged(%s)", [load]).fetchall()
            assert staging.copy_file(loading, Identifier(*table.split(".")), iter([text]), "sales.csv") == 2
            database.cluster.back_up(tmp_path / "backup")
        expected_views = views(database)

    new_server.restore(tmp_path / "backup")
    restored = Database(new_server.start_on(free_port), database.name)
    assert dump(restored) == expected
    assert len(expected_views) > 4
    found = views(restored)
    # No session of the restored server loads the month.
    assert state_of(expected_views) == [("2024-01-01", "loaded"), ("2024-02-01", "loading")]
    assert state_of(found) == [("2024-01-01", "loaded"), ("2024-02-01", "failed")]
    other = {"month_status": None, "pipeline.newest_attempts": None}
    assert {**found, **other} == {**expected_views, **other}

    monkeypatch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", restored.url("pipeline"))
    load_month(restored, "2024-02-01")
    assert state_of(views(restored)) == [("2024-01-01", "loaded"), ("2024-02-01", "loaded")]
    assert restored.run("select count(*), sum(value) from sales", user="ds_user") == [(4, Decimal("20.60"))]
    restored.run("insert into predictions values (3, 0.1)", user="mle_user")


def test_a_standby_shows_what_the_primary_loads_and_repeats_training_sets(
    database: Database, files: Files, new_server: Cluster, tmp_path: Path
) -> None:
    write_customers(files, ["1,10,A,xyz"], ["1,2020-01-01,,0.1,1"])
    load_customers(database)
    build_feature_store(database)
    make = "select row_count from make_training_set('all', 'select * from feature_store_as_of($$2020-02-01$$, $1)')"
    assert database.run(make, "ds_user") == [(1,)]
    primary = database.cluster
    primary.back_up(tmp_path / "backup")
    new_server.restore(tmp_path / "backup")
    shutil.copy2(new_server.data / "PG_VERSION", new_server.data / "standby.signal")
    if os.geteuid() == 0:
        shutil.chown(new_server.data / "standby.signal", (new_server.data / "PG_VERSION").owner())
    conninfo = f"host=127.0.0.1 port={primary.port} user=admin password={primary.password}"
    standby = Database(new_server.start_on(free_port, {"primary_conninfo": conninfo}), database.name)

    with connect(database) as loading:
        loading.execute("select pipeline.begin_load('sales', '2024-02-01', 'https://here', 'a dag', 'a run')")
        [(position,)] = database.run("select pg_current_wal_insert_lsn()")
        for _ in range(600):
            if standby.run(f"select pg_last_wal_replay_lsn() >= '{position}'") == [(True,)]:
                break
            time.sleep(0.1)
        assert state_of(views(standby)) == [("2024-02-01", "loading")]
    assert standby.run("select idx from feature_store_as_of('2020-02-01')", "ds_user") == [(1,)]
    assert standby.run("select is_same from repeat_training_set('all')", "ds_user") == [(True,)]
    with pytest.raises(CheckViolation, match="This server is a standby, so nothing can be recorded"):
        standby.run(make.replace("'all'", "'more'"), "ds_user")


def state_of(found: dict[str, Rows]) -> list[tuple[str, Any]]:
    return [(str(month), state) for _, month, state, *_ in found["month_status"]]


def test_a_damaged_backup_is_not_restored(cluster: Cluster, new_server: Cluster, tmp_path: Path) -> None:
    cluster.back_up(tmp_path / "backup")
    table = max((tmp_path / "backup/base").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    content = bytearray(table.read_bytes())
    content[100] ^= 1
    table.write_bytes(content)
    with pytest.raises(ClusterError, match="checksum mismatch"):
        new_server.restore(tmp_path / "backup")
    assert not new_server.data.exists()
