"""Objects of others on the tables of the pipeline: triggers and foreign keys of mle_user, and publications."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from conftest import ROOT, Database, Files, Rows, new_database
from psycopg.errors import CheckViolation, InsufficientPrivilege
from support import csv_text
from support.airflow_runs import run_dag
from support.bucket_files import write_customers, write_month
from support.readers import idle_reader
from support.receivers import webhook
from support.steps import FEATURES, SALES, build_feature_store, load_customers, load_month
from support.system import wait_for

from embedded.postgres import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]

MONTH = "2024-02-01"
READ = ("sales", "monthly_sales", "stores", "customer_profiles", "customer_activity", "labels")


def write_version(files: Files, version: int) -> None:
    """Files in which a value of every table is the version."""
    labels = (f"{n},0" for n in range(1, version + 1))
    write_customers(files, [f"1,{version},A,x"], [f"1,2020-01-01,,{version},1"], labels)
    write_month(files, MONTH[:7], f"1,{version},{MONTH},1")
    files.write("stores.csv", csv_text.stores(f"1,Porto {version}"))


def load_all(database: Database) -> None:
    """All loads, and the features."""
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)


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


RAISES = ("raise exception 'no changes on Fridays'", "no changes on Fridays")
# The function runs with the privileges of the login pipeline.
LACKS_PRIVILEGES = ("insert into public.changes values (now())", "permission denied for table changes")


@pytest.mark.parametrize(
    ("dag", "table", "failure", "each"),
    [(SALES, "stores", RAISES, "row"), (FEATURES, "feature_store", LACKS_PRIVILEGES, "statement")],
)
def test_a_load_that_a_trigger_stops_says_whose_trigger_it_is(
    loaded: Database,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dag: str,
    table: str,
    failure: tuple[str, str],
    each: str,
) -> None:
    statement, error = failure
    with loaded.connect("mle_user") as mle:
        mle.execute(f"""
            create table public.changes (seen timestamptz);
            create function public."Note change"() returns trigger language plpgsql as $$
            begin {statement}; return new; end $$;
            create trigger "note it" after insert or update on {table} for each {each}
            execute function public."Note change"()
        """)
    write_version(files, 2)
    if dag == FEATURES:
        load_customers(loaded)
    before = loaded.run(VERSIONS)
    with webhook(files.folder) as (receiver, posted):
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", receiver.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(receiver.ca_file))
        assert run_dag(dag, "2024-02" if dag == SALES else None, retries=3) == "failed"
    [post] = posted
    for text in (post["reason"], capsys.readouterr().out):
        assert error in text
        assert (
            f'A trigger failed, so nothing was published: "note it" on public.{table},'
            ' which calls public."Note change"() of mle_user.'
        ) in text
    assert loaded.run(VERSIONS) == before


def test_a_trigger_on_a_table_that_a_foreign_key_changes_is_named_too(loaded: Database, files: Files) -> None:
    loaded.run(
        """
        create table client_notes (idx int references feature_store on delete cascade);
        insert into client_notes values (1);
        create function keep_notes() returns trigger language plpgsql as $$
        begin raise exception 'notes are kept'; end $$;
        create trigger keep before delete on client_notes for each row execute function keep_notes()
        """,
        "mle_user",
    )
    files.write("labels.csv", csv_text.labels("2,0"))
    load_customers(loaded)
    with pytest.raises(psycopg.Error, match="notes are kept") as stopped:
        build_feature_store(loaded)
    with loaded.connect("pipeline") as connection:
        named = connection.execute("select pipeline.failed_trigger(%s)", [stopped.value.diag.context]).fetchall()
    assert "keep on public.client_notes, which calls public.keep_notes() of mle_user" in named[0][0]
    assert loaded.run("select * from client_notes, (select idx from feature_store) as kept") == [(1, 1)]


DEFERRED = "create constraint trigger late after insert on {} deferrable initially deferred for each row"
STATEMENT = "create trigger late after insert on {} for each statement"


@pytest.mark.parametrize(
    ("table", "kind", "change"),
    [
        ("monthly_sales", DEFERRED, "update public.monthly_sales set value = 0 where value <> 0"),
        ("monthly_sales", STATEMENT, "delete from public.sales"),
        ("labels", DEFERRED, "delete from public.labels where idx = new.idx"),
        ("labels", STATEMENT, "delete from public.customer_profiles"),
    ],
)
def test_a_trigger_that_fires_late_or_changes_a_table_that_was_written_before_stops_the_publication(
    loaded: Database, files: Files, table: str, kind: str, change: str
) -> None:
    before = loaded.run(VERSIONS)
    loaded.run(f"""
        create function late() returns trigger language plpgsql security definer as $$
        begin {change}; return null; end $$;
        {kind.format(table)} execute function late()
    """, "mle_user")  # fmt: skip
    write_version(files, 2)
    with pytest.raises(CheckViolation, match="A trigger or a policy on the table changes"):
        load_customers(loaded) if table == "labels" else load_month(loaded, MONTH)
    assert loaded.run(VERSIONS) == before


def test_a_policy_that_a_person_puts_on_a_table_hides_no_row_of_a_load(loaded: Database, files: Files) -> None:
    before = loaded.run(VERSIONS)
    write_version(files, 2)
    for table, hides in (("sales", "false"), ("monthly_sales", "true"), ("stores", "false")):
        loaded.run(f"alter table {table} enable row level security")
        loaded.run(f"create policy some_rows on {table} to pipeline using ({hides}) with check (true)")
        with pytest.raises(InsufficientPrivilege, match=f'affected by row-level security policy for table "{table}"'):
            load_month(loaded, MONTH)
        assert loaded.run(VERSIONS) == before
        loaded.run(f"alter table {table} disable row level security")
    load_all(loaded)
    assert loaded.run(VERSIONS) == [(2,) * 7]


def test_a_statement_trigger_of_mle_user_is_called_for_each_delete_and_insert(loaded: Database, files: Files) -> None:
    with loaded.connect("mle_user") as mle:
        mle.execute("""
            create table seen (name text, operation text);
            grant insert on seen to pipeline;
            create function note() returns trigger language plpgsql as $$
            begin insert into public.seen values (tg_table_name, tg_op); return null; end $$
        """)
        for table in READ:
            mle.execute(f"""
                create trigger note after insert or update or delete or truncate on {table}
                for each statement execute function note()
            """)
    write_version(files, 2)
    load_all(loaded)
    assert loaded.run(VERSIONS) == [(2,) * 7]
    assert sorted(loaded.run("select name, operation from seen")) == [
        *((table, operation) for table in sorted(READ) if table < "stores" for operation in ("DELETE", "INSERT")),
        # An upsert is both.
        ("stores", "INSERT"),
        ("stores", "UPDATE"),
    ]


def test_a_publication_of_all_tables_stops_no_load_unless_the_identity_of_a_table_was_taken_away(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    database.run("create publication everything for all tables")
    database.run("create publication by_root for all tables with (publish_via_partition_root)")
    for version in (1, 2):
        write_version(files, version)
        with ExitStack() as stack:
            idle_reader(database, stack, *READ)
            load_all(database)
        assert database.run(VERSIONS) == [(version,) * 7]
    database.run("delete from sales", "mle_user")

    database.run("alter table stores replica identity nothing")
    write_version(files, 3)
    capsys.readouterr()
    assert run_dag(SALES, "2024-02", retries=3) == "failed"
    log = capsys.readouterr().out
    assert 'table "stores"' in log
    assert "REPLICA IDENTITY DEFAULT" in log
    database.run("alter table stores replica identity default")
    load_month(database, MONTH)


KEYED = ("stores", "monthly_sales", "feature_store")


def keyed_rows(database: Database) -> list[Rows]:
    return [database.run(f"select * from {table} order by 1") for table in KEYED]


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A migrated database of a server that can publish changes."""
    with Cluster.temporary({"wal_level": "logical"}) as cluster:
        database = new_database(cluster, "companydata")
        database.migrate("upgrade head")
        monkeypatch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        yield database


def test_a_subscriber_receives_every_change_of_the_tables_that_have_keys(publisher: Database, files: Files) -> None:
    [statement] = re.findall(r"`(create publication .* for table .*)` \|", (ROOT / "docs/data_users.md").read_text())
    publisher.run(statement)
    subscriber = new_database(publisher.cluster, "subscriber")
    subscriber.migrate("upgrade head")
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
