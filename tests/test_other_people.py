"""Objects of others on the tables of the pipeline: triggers of mle_user, and publications."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from conftest import ROOT, Database, Files, Rows, RunDag, month_after, new_database
from receivers import webhook
from steps import build_feature_store, csv_text, load_customers, load_month
from system import wait_for

from local.postgres import Cluster

pytestmark = pytest.mark.slow

MONTH = "2024-02-01"
SALES_DAG, CUSTOMERS_DAG, FEATURES_DAG = "sales_load_and_aggregation", "customer_data_load", "feature_store"


def write_version(files: Files, version: int) -> None:
    """Files in which a value of every table is the version."""
    files.write("customer_profiles.csv", f"idx,attr_a,attr_b,attr_c\n1,{version},A,x\n")
    files.write("customer_activity.csv", f"idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,{version},1\n")
    files.write("labels.csv", csv_text("idx,label", [(n, 0) for n in range(1, version + 1)]))
    files.write("stores.csv", f"idx,location\n1,Porto {version}\n")
    files.write(f"sales/{MONTH}/sales.csv", f"idx,value,date,store_idx\n1,{version},{MONTH},1\n")


def load_all(database: Database) -> list[str]:
    """All loads; returns what the two tasks that replace partitions reported."""
    reports = [*load_month(database, MONTH), *load_customers(database)]
    build_feature_store(database)
    return reports


VERSIONS = """
    select
        (select max(value) from sales), (select max(value) from monthly_sales),
        (select right(max(location), 1)::numeric from stores), (select max(attr_a) from customer_profiles),
        (select max(scd_a)::numeric from customer_activity), (select count(*) from labels),
        (select max(attr_a) from feature_store)
"""


@pytest.fixture
def loaded(database: Database, files: Files) -> Database:
    write_version(files, 1)
    load_all(database)
    return database


def make_trigger(database: Database, table: str, statement: str, each: str) -> None:
    """As mle_user, make a trigger whose function runs a statement."""
    with database.connect("mle_user") as mle:
        mle.execute("create table public.changes (seen timestamptz)")
        mle.execute(f"""
            create function public."Note change"() returns trigger language plpgsql as $$
            begin {statement}; return new; end $$
        """)
        mle.execute(f"""
            create trigger "note it" after insert or update on {table} for each {each}
            execute function public."Note change"()
        """)


@pytest.mark.parametrize("each", ["row", "statement"])
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("raise exception 'no changes on Fridays'", "no changes on Fridays"),
        # The function runs with the privileges of the login pipeline.
        ("insert into public.changes values (now())", "permission denied for table changes"),
    ],
)
@pytest.mark.parametrize(
    ("table", "dag"), [("stores", SALES_DAG), ("monthly_sales", SALES_DAG), ("feature_store", FEATURES_DAG)]
)
def test_a_load_that_a_trigger_stops_says_whose_trigger_it_is(
    loaded: Database,
    files: Files,
    run_dag: RunDag,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    table: str,
    dag: str,
    statement: str,
    error: str,
    each: str,
) -> None:
    make_trigger(loaded, table, statement, each)
    before = loaded.run(VERSIONS)
    write_version(files, 2)
    if dag == FEATURES_DAG:
        load_customers(loaded)
        before = loaded.run(VERSIONS)
    capsys.readouterr()
    with webhook(files.folder) as (receiver, posted):
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", receiver.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(receiver.ca_file))
        assert run_dag(dag, month_after("2024-02") if dag == SALES_DAG else None, retries=3) == "failed"
    whose = (
        f'A trigger failed, so nothing was published: "note it" on public.{table},'
        ' which calls public."Note change"() of mle_user.'
    )
    log = capsys.readouterr().out
    assert error in log
    assert whose in log
    [post] = posted
    assert error in post["reason"]
    assert whose in post["reason"]
    assert loaded.run(VERSIONS) == before


def test_a_trigger_on_a_table_that_a_foreign_key_changes_is_named_too(
    loaded: Database, files: Files, run_dag: RunDag, capsys: pytest.CaptureFixture[str]
) -> None:
    with loaded.connect("mle_user") as mle:
        mle.execute("create table store_notes (store_idx int references stores on delete cascade)")
        mle.execute("insert into store_notes values (1)")
        mle.execute("""
            create function keep_notes() returns trigger language plpgsql as $$
            begin raise exception 'notes are kept'; end $$
        """)
        mle.execute("create trigger keep before delete on store_notes for each row execute function keep_notes()")
    files.write("stores.csv", "idx,location\n2,Faro\n")
    files.write(f"sales/{MONTH}/sales.csv", f"idx,value,date,store_idx\n1,2,{MONTH},2\n")
    capsys.readouterr()
    assert run_dag(SALES_DAG, month_after("2024-02")) == "failed"
    assert "keep on public.store_notes, which calls public.keep_notes() of mle_user" in capsys.readouterr().out
    assert loaded.run("select store_idx from store_notes") == [(1,)]


def test_a_statement_trigger_on_a_table_that_is_replaced_by_partition_does_not_fire(
    loaded: Database, files: Files
) -> None:
    with loaded.connect("mle_user") as mle:
        mle.execute("create function stop() returns trigger language plpgsql as $$ begin raise 'stop'; end $$")
        for table in ("sales", "customer_profiles", "customer_activity", "labels"):
            mle.execute(f"create trigger stop before insert or delete or truncate on {table} execute function stop()")
    write_version(files, 2)
    with ExitStack() as stack:
        hold_open(loaded, stack)
        load_all(loaded)
    assert loaded.run(VERSIONS) == [(2,) * 7]
    write_version(files, 3)
    load_all(loaded)
    assert loaded.run(VERSIONS) == [(3,) * 7]


def hold_open(database: Database, stack: ExitStack) -> None:
    """A session of ds_user keeps the tables open until the stack ends, so that their partitions are not swapped."""
    reader = stack.enter_context(database.connect("ds_user"))
    stack.enter_context(reader.transaction())
    for table in ("sales", "customer_profiles", "customer_activity", "labels"):
        reader.execute(f"select count(*) from {table}")


@pytest.mark.parametrize("options", ["", "with (publish_via_partition_root)"])
def test_a_publication_of_all_tables_stops_no_load(database: Database, files: Files, options: str) -> None:
    database.run(f"create publication everything for all tables {options}")
    for version in (1, 2):
        write_version(files, version)
        assert not any("are deleted and inserted" in report for report in load_all(database))
        assert database.run(VERSIONS) == [(version,) * 7]
    write_version(files, 3)
    with ExitStack() as stack:
        hold_open(database, stack)
        reports = load_all(database)
    assert sum("are deleted and inserted" in report for report in reports) == 4
    assert database.run(VERSIONS) == [(3,) * 7]
    database.run("delete from sales", "mle_user")


KEYED = ("stores", "monthly_sales", "feature_store")


@pytest.fixture
def publisher() -> Iterator[Database]:
    """A migrated database of a server that can publish changes."""
    with Cluster.temporary({"wal_level": "logical"}) as cluster:
        database = new_database(cluster, "companydata")
        done = database.alembic("upgrade", "head")
        assert done.returncode == 0, done.stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
            yield database


def keyed_rows(database: Database) -> list[Rows]:
    return [database.run(f"select * from {table} order by 1") for table in KEYED]


def test_a_subscriber_receives_every_change_of_the_tables_that_have_keys(publisher: Database, files: Files) -> None:
    [statement] = re.findall(r"`(create publication .* for table .*)` \|", (ROOT / "docs/data_users.md").read_text())
    publisher.run(statement)
    subscriber = new_database(publisher.cluster, "subscriber")
    assert subscriber.alembic("upgrade", "head").returncode == 0
    # A subscription in the same server would wait for itself if it created its slot.
    publisher.run("select pg_create_logical_replication_slot('company_data', 'pgoutput')")
    subscriber.run(f"""
        create subscription company_data connection '{publisher.url()}' publication company_data
        with (create_slot = false, copy_data = false)
    """)
    for version in (1, 2):
        write_version(files, version)
        load_all(publisher)
        wait_for(lambda: keyed_rows(subscriber) == keyed_rows(publisher))
    assert subscriber.run("select count(*) from sales") == [(0,)]
    for statement in (
        "alter subscription company_data disable",
        "alter subscription company_data set (slot_name = none)",
        "drop subscription company_data",
    ):
        subscriber.run(statement)


def test_a_table_whose_identity_was_taken_away_fails_at_once_with_what_to_do(
    loaded: Database, files: Files, run_dag: RunDag, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded.run("create publication everything for all tables")
    loaded.run("alter table stores replica identity nothing")
    write_version(files, 2)
    capsys.readouterr()
    assert run_dag(SALES_DAG, month_after("2024-02"), retries=3) == "failed"
    log = capsys.readouterr().out
    assert 'table "stores"' in log
    assert "REPLICA IDENTITY DEFAULT" in log
    loaded.run("alter table stores replica identity default")
    assert run_dag(SALES_DAG, month_after("2024-02")) == "success"
