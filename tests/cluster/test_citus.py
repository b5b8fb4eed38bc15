"""What only a Citus cluster has: rows on several servers, which crash one by one, and databases that move there."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import steps
from conftest import Database, Files, drop_database
from pauses import pausing, wait_for
from steps import CUSTOMERS, FEATURES, SALES, Run, build_feature_store, csv_text, load_customers, load_month

from local.citus import CitusCluster

MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01"]
STORES, ROWS, CLIENTS = 20, 400, 200
TABLES = ["stores", "sales", "monthly_sales", "customer_profiles", "customer_activity", "labels"]


@pytest.fixture(autouse=True)
def dags() -> None:
    """The DAGs, read before threads run them: Airflow reads files of DAGs in the main thread alone."""
    for dag_id in (SALES, CUSTOMERS, FEATURES):
        steps.dag(dag_id)


@pytest.fixture
def bucket(files: Files) -> Files:
    files.write("stores.csv", csv_text("idx,location", [(n, f"city {n}") for n in range(STORES)]))
    for month in MONTHS:
        write_month(files, month, 1)
    profiles = [(n, n % 7, "ABC"[n % 3], "x") for n in range(CLIENTS)]
    files.write("customer_profiles.csv", csv_text("idx,attr_a,attr_b,attr_c", profiles))
    activity = [
        (n, f"2020-0{1 + k}-01", f"2020-0{2 + k}-01" if k < 2 else "", n / 7, k)
        for n in range(CLIENTS)
        for k in range(3)
    ]
    files.write("customer_activity.csv", csv_text("idx,valid_from,valid_to,scd_a,scd_b", activity))
    files.write("labels.csv", csv_text("idx,label", [(n, n % 2) for n in range(CLIENTS)]))
    return files


def write_month(files: Files, month: str, value: int) -> None:
    """A month in which every sale has the same value."""
    rows = [(n, value, f"{month[:8]}{1 + n % 28:02}", n % STORES) for n in range(ROWS)]
    files.write(f"sales/{month}/sales.csv", csv_text("idx,value,date,store_idx", rows))


def content(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables that readers see; when they were known differs from database to database."""
    found = {table: sorted(database.run(f"select * from {table}"), key=str) for table in [*TABLES, "feature_store"]}
    history = database.run("select idx, valid_from, valid_to, scd_a, scd_b, label from feature_history")
    return found | {"feature_history": sorted(history, key=str)}


def expected() -> dict[str, list[tuple[Any, ...]]]:
    """What the files say of the tables that are computed."""
    per_store = ROWS // STORES
    return {
        "monthly_sales": [(f"city {n}", month, per_store) for n in range(STORES) for month in MONTHS],
        "feature_store": [(n, n % 7, "ABC"[n % 3], n / 7, 2, n % 2) for n in range(CLIENTS)],
    }


def load_everything(database: Database) -> None:
    for month in MONTHS:
        load_month(database, month)
    load_customers(database)
    build_feature_store(database)


def remote_commands(database: Database, query: str) -> list[str]:
    """The queries that the coordinator sends to the workers for a query of ds_user."""
    sent: list[str] = []
    with database.connect("ds_user") as connection:
        connection.execute("set citus.log_remote_commands = on")
        connection.add_notice_handler(lambda notice: sent.append(str(notice.message_primary)))
        connection.execute(query).fetchall()
    return [
        command for command in sent if re.match("issuing (SELECT|WITH|COPY)", command) and "feature_hist" in command
    ]


def test_each_table_is_where_its_rows_are_joined(database: Database) -> None:
    found = database.run("""
        select partmethod::text, array_agg(logicalrelid::text order by logicalrelid::text)
        from pg_dist_partition
        where not exists (select from pg_inherits where inhrelid = logicalrelid)
        group by partmethod, colocationid
        order by 2
    """)
    assert found == [
        (
            "h",
            [
                *("customer_activity", "customer_profiles", "feature_history", "feature_store", "labels"),
                *("pipeline.client_hashes", "staging.clients", "staging.feature_history"),
            ],
        ),
        ("n", ["monthly_sales", "stores"]),
        ("h", ["sales"]),
    ]


def test_the_computed_tables_are_what_the_files_say(database: Database, bucket: Files) -> None:
    load_everything(database)
    found = content(database)
    wanted = expected()
    assert found["feature_store"] == sorted(wanted["feature_store"], key=str)
    monthly = [(location, str(month), value) for _, location, month, value in found["monthly_sales"]]
    assert sorted(monthly) == sorted(wanted["monthly_sales"])
    assert len(found["sales"]) == ROWS * len(MONTHS)


def test_one_client_on_one_day_is_asked_of_one_server(database: Database, bucket: Files) -> None:
    load_customers(database)
    build_feature_store(database)
    for query in (
        "select * from feature_store_at('{7}', '{2020-02-05}')",
        "select * from feature_store_at('{7}', '{2020-02-05}', now())",
        "select * from feature_history where idx = 7 and known_to is null",
    ):
        assert len(remote_commands(database, query)) == 1, query
        assert len(database.run(query, "ds_user")) >= 1


def test_pairs_are_joined_where_the_history_is(database: Database, bucket: Files) -> None:
    load_customers(database)
    build_feature_store(database)
    sent = remote_commands(
        database, "select * from feature_store_at('{7, 8, -1}', '{2020-02-05, 2020-03-05, 2020-01-01}')"
    )
    assert sent
    assert all("JOIN" in command and "intermediate_result" in command for command in sent)


def test_the_rows_leave_the_coordinator_before_they_are_published(database: Database, bucket: Files) -> None:
    run = Run(database, SALES, MONTHS[0])
    run.run("stage_sales", "stage_stores", "check_month", "compare_month")
    staged = f"staging.sales_{run.loads['stage_sales']}"
    on_the_coordinator = f"select pg_relation_size('{staged}'), pipeline.is_distributed('{staged}')"
    assert database.run(on_the_coordinator) == [(0, True)]
    assert database.run(f"select count(*) from {staged}") == [(ROWS,)]
    run.run("publish_month")
    assert database.run("select count(*), pg_relation_size('partitions.sales_2024_01') from sales") == [(ROWS, 0)]


@pytest.mark.parametrize("server", [0, 1, 2])
def test_a_server_that_crashes_before_the_commit_leaves_the_old_month_and_a_retry_works(
    database: Database, bucket: Files, server: int
) -> None:
    load_month(database, MONTHS[0])
    before = content(database)
    write_month(bucket, MONTHS[0], 2)
    run = Run(database, SALES, MONTHS[0])
    run.run("stage_sales", "stage_stores", "check_month", "compare_month")
    with pausing(database, "before commit") as pause, ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(run.run, "publish_month")
        pause.wait(publishing)
        crash(database, server)
        pause.release()
        with pytest.raises(psycopg.Error):
            publishing.result()
    wait_until_up(database)
    assert content(database) == before
    run.run("publish_month")
    assert database.run("select count(*), min(value), max(value) from sales") == [(ROWS, 2, 2)]
    wait_for(database, "select recover_prepared_transactions() where not exists (select from pg_prepared_xacts)")


def crash(database: Database, server: int) -> None:
    """Kill a session of a server, which makes all of its sessions end and its recovery begin."""
    assert isinstance(database.cluster, CitusCluster)
    host, port = database.cluster.nodes[server]
    with psycopg.connect(database.url(), host=host, port=port, autocommit=True) as victim:
        pid = victim.info.backend_pid
        with pytest.raises(psycopg.OperationalError):
            victim.execute(f"copy (select 1) to program 'kill -KILL {pid}'")


def wait_until_up(database: Database) -> None:
    """Wait until all servers accept connections again."""

    def tried() -> bool:
        try:
            for connection in database.cluster.each(database.name):  # type: ignore[attr-defined]
                connection.execute("select 1")
        except psycopg.OperationalError:
            return False
        return True

    for _ in range(600):
        if tried():
            return
        time.sleep(0.1)
    raise AssertionError("a server is not up after a minute")


def test_a_downgrade_brings_the_rows_back_and_an_upgrade_distributes_them_again(
    database: Database, bucket: Files
) -> None:
    load_everything(database)
    before = content(database)
    for arguments, distributed in ((["downgrade", "0012"], False), (["upgrade", "head"], True)):
        done = database.alembic(*arguments)
        assert done.returncode == 0, done.stderr
        assert content(database) == before
        assert database.run("select count(*) > 0 from pg_dist_partition") == [(distributed,)]
        assert len(database.run("select * from feature_store_as_of('2020-02-05')", "ds_user")) == CLIENTS
    load_everything(database)
    assert content(database) == before


@pytest.fixture
def moved(cluster: CitusCluster, template: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A migrated database on the coordinator alone, without the extension."""
    with psycopg.connect(cluster.url("postgres", driver="postgresql"), autocommit=True) as connection:
        connection.execute("create database moved template template0 owner admin")
    database = Database(cluster, "moved")
    try:
        done = database.alembic("upgrade", "head")
        assert done.returncode == 0, done.stderr
        monkeypatch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        yield database
    finally:
        drop_database(database)
        for server in cluster.each():
            server.execute("alter role pipeline_owner login")


def test_a_database_with_rows_moves_to_a_cluster(cluster: CitusCluster, moved: Database, bucket: Files) -> None:
    load_everything(moved)
    before = content(moved)
    cluster.join(moved.name)
    moved.run("alter role pipeline_owner login password 'pipeline_owner'")
    for arguments in (["downgrade", "0012"], ["upgrade", "head"]):
        done = moved.alembic(*arguments)
        assert done.returncode == 0, done.stderr
    assert content(moved) == before
    assert moved.run("select count(*) > 0 from pg_dist_partition") == [(True,)]
    write_month(bucket, MONTHS[1], 3)
    load_everything(moved)
    assert moved.run(
        f"select min(value), max(value) from sales where date >= '{MONTHS[1]}' and date < '{MONTHS[2]}'"
    ) == [(3, 3)]
