"""What only a cluster has: rows on several servers, which crash one by one, and the ways to it and back."""

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from conftest import ROOT, Database, Files, drop_database
from psycopg import sql
from support import csv_text, steps
from support.breakpoints import pausing
from support.bucket_files import write_customers
from support.steps import CUSTOMERS, FEATURES, SALES, Run, build_feature_store, load_customers, load_month

from deploy.citus.cluster import CitusCluster

pytestmark = pytest.mark.slow

MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01"]
STORES, ROWS, CLIENTS = 20, 400, 200
YEAR = [f"2023-{month:02}-01" for month in range(1, 13)]
YEAR_SALES, YEAR_CLIENTS = 10_000, 50_000
TABLES = ["stores", "sales", "monthly_sales", "customer_profiles", "customer_activity", "labels"]
Content = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(autouse=True)
def dags() -> None:
    """The DAGs, read before threads run them: Airflow reads files of DAGs in the main thread alone."""
    for dag_id in (SALES, CUSTOMERS, FEATURES):
        steps.dag(dag_id)


@pytest.fixture(autouse=True)
def owner(cluster: CitusCluster) -> Iterator[None]:
    """The owner of the tables logs in again for the next test: a database that is taken back ends that for all."""
    yield
    for server in cluster.each():
        server.execute("alter role pipeline_owner login password 'pipeline_owner'")


@pytest.fixture
def bucket(files: Files) -> Files:
    files.write("stores.csv", csv_text.stores(*(f"{n},city {n}" for n in range(STORES))))
    for month in MONTHS:
        write_month(files, month, 1)
    clients = range(CLIENTS)
    write_customers(
        files,
        (f"{n},{n % 7},{'ABC'[n % 3]},x" for n in clients),
        (f"{n},2020-0{1 + k}-01,{f'2020-0{2 + k}-01' if k < 2 else ''},{n / 7},{k}" for n in clients for k in range(3)),
        (f"{n},{n % 2}" for n in clients),
    )
    return files


@pytest.fixture
def plain(cluster: CitusCluster, template: Database) -> Iterator[Database]:
    """A migrated database of the coordinator alone, as a server without Citus has it."""
    cluster.create_database("test_moved")
    database = Database(cluster, "test_moved")
    try:
        database.run("drop extension citus")
        database.migrate("upgrade head")
        yield database
    finally:
        drop_database(database)


def write_month(files: Files, month: str, value: int) -> None:
    """A month in which every sale has the same value."""
    rows = (f"{n},{value},{month[:8]}{1 + n % 28:02},{n % STORES}" for n in range(ROWS))
    files.write(f"sales/{month}/sales.csv", csv_text.sales(*rows))


def content(database: Database) -> Content:
    """All rows that readers see, in an order. Builds are numbered: elsewhere they are known from other moments."""
    found: Content = {
        table: sorted(database.run(f"select * from {table}"), key=repr) for table in [*TABLES, "feature_store"]
    }
    found["month_status"] = database.run("select file_month, row_count, total from month_status order by 1")
    known = [known_at for (known_at,) in database.run("select known_at from pipeline.feature_store_builds order by 1")]
    build = {known_at: number for number, known_at in enumerate(known)} | {None: None}
    history = database.run("""
        select known_from, known_to, idx, valid_from, valid_to, attr_a, attr_b, scd_a, scd_b, label
        from feature_history
    """)
    found["feature_history"] = sorted(((build[begin], build[end], *row) for begin, end, *row in history), key=repr)
    return found


def load_everything(database: Database) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        for month in MONTHS:
            load_month(database, month)
        load_customers(database)
        build_feature_store(database)


def schema(database: Database) -> str:
    """The database as SQL, without rows and without what a load has staged."""
    left_out = ["--exclude-schema=citus*", "--exclude-table=staging.stores_*"]
    return database.client("pg_dump", "--schema-only", *left_out, database.url())


def citus(database: Database) -> CitusCluster:
    assert isinstance(database.cluster, CitusCluster)
    return database.cluster


def on_each(database: Database, query: str) -> list[list[tuple[Any, ...]]]:
    """What each server answers, the coordinator last."""
    return [server.execute(query.encode()).fetchall() for server in citus(database).each(database.name)]


def sent_to_workers(database: Database, query: str) -> list[str]:
    """The queries that the coordinator sends to the workers for a query of ds_user."""
    sent: list[str] = []
    with database.connect("ds_user") as connection:
        connection.execute("set citus.log_remote_commands = on")
        connection.add_notice_handler(lambda notice: sent.append(str(notice.message_primary)))
        assert connection.execute(query).fetchall()
    return [command for command in sent if re.match("issuing (SELECT|WITH|COPY)", command) and "feature_" in command]


def test_each_table_is_where_its_rows_are_joined(database: Database) -> None:
    assert database.run("""
        select partmethod::text, array_agg(logicalrelid::text order by logicalrelid::text)
        from pg_dist_partition
        where not exists (select from pg_inherits where inhrelid = logicalrelid)
        group by partmethod, colocationid
        order by 2
    """) == [
        ("h", ["customer_activity", "customer_profiles", "feature_history", "feature_store", "labels"]),
        ("h", ["sales"]),
    ]


def test_the_computed_tables_are_what_the_files_say_also_after_loads_and_rebuilds_at_once(
    database: Database, bucket: Files
) -> None:
    load_everything(database)
    found = content(database)
    per_store = ROWS // STORES
    assert len(found["sales"]) == ROWS * len(MONTHS)
    assert sorted((location, str(month), value) for _, location, month, value in found["monthly_sales"]) == sorted(
        (f"city {n}", month, per_store) for n in range(STORES) for month in MONTHS
    )
    expected = [(n, n % 7, "ABC"[n % 3], n / 7, 2, n % 2) for n in range(CLIENTS)]
    assert found["feature_store"] == sorted(expected, key=repr)
    assert database.run("select pg_relation_size('partitions.sales_2024_01')") == [(0,)]
    with ThreadPoolExecutor(7) as pool:
        works = [
            *(partial(load_month, database, month) for month in [*MONTHS, MONTHS[0], MONTHS[0]]),
            *(partial(load_customers, database), partial(build_feature_store, database)),
        ]
        for _ in range(3):
            for done in [pool.submit(work) for work in works]:
                done.result()
    assert content(database) == found


def test_one_client_is_asked_of_one_server_and_pairs_are_joined_where_the_history_is(
    database: Database, bucket: Files
) -> None:
    load_customers(database)
    build_feature_store(database)
    for table in ("feature_store where", "feature_history where known_to is null and"):
        assert len(sent_to_workers(database, f"select * from {table} idx = 7")) == 1
    pairs = "'{7, 8, -1}', '{2020-02-05, 2020-03-05, 2020-01-01}'"
    sent = sent_to_workers(database, f"select * from feature_store_at({pairs})")
    assert sent
    assert all("JOIN" in command and "intermediate_result" in command for command in sent)


def test_mle_user_distributes_a_table_that_ds_user_reads(database: Database, bucket: Files) -> None:
    load_customers(database)
    database.run(
        """
        create table public.scores (
            score_id bigint generated always as identity, idx integer, score numeric,
            is_high boolean generated always as (score > 1) stored
        )
        """,
        "mle_user",
    )
    database.run("select create_distributed_table('scores', 'idx', colocate_with => 'labels')", "mle_user")
    database.run("insert into scores (idx, score) select idx, label * 2 from labels", "mle_user")
    joined = "select sum(score), sum(label), count(*) filter (where is_high) from scores join labels using (idx)"
    assert database.run(joined, "ds_user") == [(CLIENTS, CLIENTS / 2, CLIENTS / 2)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.run("insert into scores (idx, score) values (1, 1)", "ds_user")
    rows = database.run("select * from scores order by idx", "ds_user")
    citus(database).take_back(database.name)
    assert database.run("select * from scores order by idx", "ds_user") == rows


def test_an_old_month_is_taken_out(database: Database, bucket: Files) -> None:
    load_month(database, MONTHS[0])
    load_month(database, MONTHS[1])
    with pytest.raises(psycopg.errors.CheckViolation, match="still has the rows"):
        database.run("select pipeline.retire_load(1)", "pipeline")
    database.run("alter table public.sales detach partition partitions.sales_2024_01")
    database.run("select pipeline.retire_load(1)", "pipeline")
    assert database.run("select file_month::text, status from month_status order by 1", "ds_user") == [
        (MONTHS[0], "retired"),
        (MONTHS[1], "loaded"),
    ]
    assert database.run("select count(*) from sales", "ds_user") == [(ROWS,)]


def test_a_table_is_altered_on_all_servers_and_the_script_runs_after_each_upgrade(
    database: Database, bucket: Files
) -> None:
    load_everything(database)
    before = schema(database)
    citus(database).distribute(database.name)
    assert schema(database) == before
    # As a revision does; it makes the functions again, in the words of one server.
    file = ROOT / "alembic/versions/0108_feature_functions.sql"
    make, _, drop = file.read_text().partition("\n-- Undo\n")
    with database.connect() as admin, admin.transaction():
        admin.execute("set local role pipeline_owner")
        admin.execute("alter table public.labels add column note text default 'none'")
        admin.execute(drop.encode())
        admin.execute(make.encode())
    citus(database).distribute(database.name)
    assert database.run("select note, count(*) from labels group by note", "ds_user") == [("none", CLIENTS)]
    assert len(database.run("select * from feature_store_as_of('2020-02-05')", "ds_user")) == CLIENTS
    assert len(database.run("select * from feature_store_at('{7}', '{2020-02-05}')", "ds_user")) == 1


def test_a_limit_of_a_login_holds_on_the_coordinator_and_a_changed_password_reaches_all_servers(
    database: Database, bucket: Files
) -> None:
    limits = on_each(database, "select rolconnlimit from pg_roles where rolname in ('ds_user', 'mle_user')")
    assert limits == [[(-1,)] * 2, [(-1,)] * 2, [(20,)] * 2]
    load_customers(database)
    hashes = []
    for verifier in ("other", "ds_user"):
        database.run(f"alter role ds_user password '{verifier}'")
        hashes += on_each(database, "select rolpassword from pg_authid where rolname = 'ds_user'")
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3] == hashes[4] == hashes[5]
    assert database.run("select count(*) from labels", "ds_user") == [(CLIENTS,)]


def test_the_password_file_of_the_servers_has_any_password(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    password = r"""a"b'c:d\:e%s*f\\"""
    for folder in ("cluster", "company-data"):
        (tmp_path / folder).mkdir()
    for login in ("admin", "ds_user", "mle_user", "pipeline"):
        (tmp_path / f"company-data/{login}_password").write_text(password)
    (tmp_path / "more_logins").write_text("*:*:*:one_more:x\n")
    # In the container it is root that runs the script.
    script = (ROOT / "deploy/citus/logins.sh").read_text().replace("/run/", f"{tmp_path}/").replace("chown", ": chown")
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", script], check=True)
    written = (tmp_path / "cluster/pgpass").read_text().splitlines()
    assert len(written) == 6
    assert written[4] == f"*:*:*:pipeline_owner:{(tmp_path / 'cluster/owner_password').read_text()}"
    database.run(sql.SQL("alter role ds_user password {}").format(sql.Literal(password)).as_string())
    try:
        url = f"postgresql://ds_user@127.0.0.1:{database.cluster.port}/{database.name}"
        psycopg.connect(url, passfile=str(tmp_path / "cluster/pgpass")).close()
    finally:
        database.run("alter role ds_user password 'ds_user'")


@pytest.mark.parametrize("server", [0, 1, 2])
def test_a_server_that_crashes_before_the_commit_leaves_the_old_month_and_a_retry_works(
    database: Database, bucket: Files, server: int
) -> None:
    load_month(database, MONTHS[0])
    before = content(database)
    write_month(bucket, MONTHS[0], 2)
    run = Run(database, SALES, MONTHS[0])
    run.run("stage_sales", "stage_stores", "check_month", "compare_month")
    crash_during(database, server, "before commit", partial(run.run, "publish_month"))
    assert content(database) == before
    run.run("publish_month")
    assert database.run("select count(*), min(value), max(value) from sales") == [(ROWS, 2, 2)]
    database.run("select recover_prepared_transactions()")
    assert on_each(database, "select gid from pg_prepared_xacts where database = current_database()") == [[]] * 3


def crash_during(database: Database, server: int, point: str, work: Callable[[], object]) -> None:
    """Let some work come to a point, crash a server there, and let it fail when the server is up again."""
    with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        pause.wait(running)
        crash(database, server)
        pause.release()
        with pytest.raises(psycopg.Error):
            running.result()


def crash(database: Database, server: int) -> None:
    """Kill a session of a server, which ends all of its sessions, and wait until it has recovered."""
    host, port = citus(database).nodes[server]
    connect = partial(psycopg.connect, database.url(), host=host, port=port, autocommit=True)
    # This process lives as long as no session crashes.
    checkpointer = "select pid from pg_stat_activity where backend_type = 'checkpointer'"
    with connect() as victim:
        pid = victim.info.backend_pid
        before = victim.execute(checkpointer).fetchall()
        with pytest.raises(psycopg.OperationalError):
            victim.execute(f"copy (select 1) to program 'kill -KILL {pid}'")
    for _ in range(600):
        with contextlib.suppress(psycopg.OperationalError), connect() as connection:
            if connection.execute(checkpointer).fetchall() not in ([], before):
                return
        time.sleep(0.1)
    raise AssertionError("the server is not up after a minute")


def test_a_database_with_rows_moves_to_the_cluster_and_back(plain: Database, bucket: Files) -> None:
    load_everything(plain)
    bucket.write("labels.csv", csv_text.labels(*(f"{n},1" for n in range(CLIENTS))))
    load_everything(plain)
    plain.run("create view public.my_sales as select sum(value) as total from public.sales", "mle_user")
    plain.run("comment on view public.my_sales is 'of mle_user'", "mle_user")
    plain.run("revoke all on public.my_sales from ds_user_role", "mle_user")
    rows, made = content(plain), schema(plain)
    assert any(known_to is not None for _, known_to, *_ in rows["feature_history"])
    for _ in range(2):
        citus(plain).distribute(plain.name)
        assert content(plain) == rows
        assert plain.run("select total from my_sales", "mle_user") == [(ROWS * len(MONTHS),)]
        assert len(plain.run("select * from feature_store_as_of('2020-02-05')", "ds_user")) == CLIENTS
        load_everything(plain)
        assert content(plain) == rows
        citus(plain).take_back(plain.name)
        assert schema(plain) == made
        assert content(plain) == rows
    citus(plain).take_back(plain.name)
    load_everything(plain)
    assert content(plain) == rows


def test_a_database_that_was_taken_back_is_downgraded_and_upgraded(database: Database, bucket: Files) -> None:
    citus(database).take_back(database.name)
    made = schema(database)
    database.migrate("downgrade base", "upgrade head")
    assert schema(database) == made
    citus(database).distribute(database.name)
    load_everything(database)
    assert database.run("select count(*) from feature_store", "ds_user") == [(CLIENTS,)]


def a_year(
    database: Database, files: Files, run_step: Callable[[int, Callable[[], object]], object]
) -> Iterator[Content]:
    """Load a year with many clients, then corrected files, and give what readers see after both.

    Args:
        database: the database.
        files: the bucket.
        run_step: runs the publication of a month; on a cluster, a server crashes before it succeeds.
    """
    numbers = Random(20240205)  # noqa: S311 - sample values
    files.write("stores.csv", csv_text.stores(*(f"{n},city {n}" for n in range(STORES))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        for month in YEAR:
            write_sales(files, month, numbers)
            load_month(database, month)
        write_clients(files, numbers, range(1, YEAR_CLIENTS + 1))
        load_customers(database)
        build_feature_store(database)
        yield content(database)

        files.write("stores.csv", csv_text.stores(*(f"{n},street {n // 2}" for n in range(STORES + 1))))
        for server, month in enumerate((YEAR[2], YEAR[6], YEAR[11])):
            write_sales(files, month, numbers)
            run = Run(database, SALES, month)
            run.run("stage_sales", "stage_stores", "check_month", "compare_month")
            run_step(server, partial(run.run, "publish_month"))
        write_clients(files, numbers, range(YEAR_CLIENTS // 100, YEAR_CLIENTS + 200))
        load_customers(database)
        build_feature_store(database)
        yield content(database)


def write_sales(files: Files, month: str, numbers: Random) -> None:
    """A month of random sales."""
    rows = (
        f"{n},{numbers.randint(-500, 99_999) / 100:.2f},{month[:8]}{numbers.randint(1, 28):02},{n * n % STORES}"
        for n in range(YEAR_SALES)
    )
    files.write(f"sales/{month}/sales.csv", csv_text.sales(*rows))


def write_clients(files: Files, numbers: Random, clients: range) -> None:
    """Clients with one to three activities, which overlap and have gaps, and of whom some lack a label."""
    activity = (
        f"{n},2020-0{1 + 2 * k}-{numbers.randint(1, 28):02},{end},{numbers.randint(0, 9) / 7},{k}"
        for n in clients
        for k in range(1 + n % 3)
        for end in (numbers.choice(["", f"2020-{3 + 3 * k:02}-01", f"2020-{3 + 3 * k:02}-15"]),)
    )
    labels = (f"{n},{numbers.randint(0, 1)}" for n in clients if n % 300)
    write_customers(files, (f"{n},{n % 101},{'ABCDE'[n % 5]},x" for n in clients), activity, labels)


def test_a_year_with_corrections_and_crashes_equals_that_of_one_server(
    database: Database, plain: Database, files: Files
) -> None:
    def crash_and_do_it_again(server: int, work: Callable[[], object]) -> None:
        crash_during(database, server, "before commit", work)
        work()

    wanted = list(a_year(plain, files, lambda server, work: work()))
    found = list(a_year(database, files, crash_and_do_it_again))
    assert [len(seen["sales"]) for seen in found] == [YEAR_SALES * len(YEAR)] * 2
    assert len(found[1]["feature_history"]) > 2 * len(found[1]["feature_store"]) > YEAR_CLIENTS
    # The rows themselves would take minutes to print.
    differ = [[table for table in seen if seen[table] != had[table]] for seen, had in zip(found, wanted, strict=True)]
    assert differ == [[], []]
