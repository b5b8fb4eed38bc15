"""A table of public is open to its readers from its first publication on, and afterwards only a person closes it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import steps
from conftest import Database, Files
from psycopg.errors import CheckViolation, InsufficientPrivilege
from steps import CUSTOMERS, FEATURES, SALES, Run, build_feature_store, load_customers, load_month

pytestmark = pytest.mark.slow

CUSTOMER_TABLES = ["customer_profiles", "customer_activity", "labels"]
SALES_TABLES = ["stores", "sales", "monthly_sales"]
TABLES = [*CUSTOMER_TABLES, *SALES_TABLES, "feature_store"]
MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01"]


@pytest.fixture(autouse=True)
def dags() -> None:
    """The DAGs, read before threads run them: Airflow reads DAG files in the main thread alone."""
    for dag_id in (SALES, CUSTOMERS, FEATURES):
        steps.dag(dag_id)


@pytest.fixture
def bucket(files: Files) -> Files:
    files.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c\n1,1,A,x\n")
    files.write("customer_activity.csv", "idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,1,1\n")
    files.write("labels.csv", "idx,label\n1,0\n")
    files.write("stores.csv", "idx,location\n1,Porto\n")
    for month in MONTHS:
        files.write(f"sales/{month}/sales.csv", f"idx,value,date,store_idx\n1,5,{month},1\n")
    return files


def open_tables(database: Database) -> list[str]:
    """The tables that both readers can read and mle_user can write; fails if one of them sees an empty table."""
    found = []
    for table in TABLES:
        try:
            for user in ("ds_user", "mle_user"):
                [(rows,)] = database.run(f"select count(*) from {table}", user)
                assert rows > 0, table
            database.run(f"delete from {table} where false", "mle_user")
        except InsufficientPrivilege:
            continue
        found.append(table)
    return found


def test_each_table_is_closed_until_it_is_published(database: Database, bucket: Files) -> None:
    assert open_tables(database) == []
    customers = Run(database, CUSTOMERS)
    customers.run("stage_customer_profiles", "stage_customer_activity", "stage_labels", "check_customers")
    assert open_tables(database) == []
    customers.run("publish_customers")
    assert open_tables(database) == CUSTOMER_TABLES
    build_feature_store(database)
    assert open_tables(database) == [*CUSTOMER_TABLES, "feature_store"]
    load_month(database, MONTHS[0])
    assert open_tables(database) == TABLES


@pytest.mark.parametrize("user", ["ds_user", "mle_user"])
def test_functions_and_views_on_a_closed_table_are_denied_too(database: Database, bucket: Files, user: str) -> None:
    database.run("create view public.clients as select idx from feature_store", "mle_user")
    database.run(
        "create function public.clients_of_today() returns bigint language sql return "
        "(select count(*) from feature_store)",
        "mle_user",
    )
    queries = ["select * from feature_store_as_of('2024-01-01')", "select * from clients"]
    if user == "mle_user":
        queries.append("select clients_of_today()")
    for query in queries:
        with pytest.raises(InsufficientPrivilege):
            database.run(query, user)
    load_customers(database)
    build_feature_store(database)
    for query in queries:
        assert len(database.run(query, user)) == 1


def test_a_run_of_feature_store_without_customer_files_does_not_open_it(database: Database, bucket: Files) -> None:
    build_feature_store(database)
    assert open_tables(database) == []
    load_customers(database)
    build_feature_store(database)
    assert open_tables(database) == [*CUSTOMER_TABLES, "feature_store"]


def test_a_first_load_that_fails_opens_nothing(database: Database, bucket: Files) -> None:
    bucket.write("stores.csv", "idx,location\n2,Porto\n")
    with pytest.raises(CheckViolation):
        load_month(database, MONTHS[0])
    # A check constraint of a person lets the last statement but one of a publish task fail.
    bucket.write("stores.csv", "idx,location\n1,Porto\n")
    database.run("alter table monthly_sales add constraint none check (false)")
    with pytest.raises(CheckViolation):
        load_month(database, MONTHS[0])
    assert open_tables(database) == []


def test_months_that_are_published_side_by_side_for_the_first_time_all_succeed(
    database: Database, bucket: Files
) -> None:
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load_month, database, month) for month in MONTHS]
        running.append(pool.submit(load_customers, database))
        for each in running:
            each.result(120)
    assert open_tables(database) == [*CUSTOMER_TABLES, *SALES_TABLES]


def test_two_transactions_that_open_a_table_wait_for_each_other(database: Database) -> None:
    open_stores = "select pipeline.open_to_readers('stores')"
    with database.connect("pipeline") as first, database.connect("pipeline") as second, ThreadPoolExecutor(1) as pool:
        with first.transaction():
            first.execute(open_stores)
            waiting = pool.submit(second.execute, open_stores)
            blocked = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
            with database.connect() as admin:
                while not admin.execute(blocked, [second.info.backend_pid]).fetchall():
                    assert not waiting.done()
        waiting.result(60)
    assert database.run("select table_id::text from pipeline.open_tables") == [("stores",)]
    assert database.run("select count(*) from stores", "ds_user") == [(0,)]


def test_a_transaction_that_has_read_data_freshness_does_not_stop_the_first_loads(
    database: Database, bucket: Files
) -> None:
    with database.connect("ds_user") as waiting, waiting.transaction():
        assert waiting.execute("select distinct state from data_freshness").fetchall() == [("missing",)]
        loads_again(database, bucket)
        assert open_tables(database) == TABLES
        assert waiting.execute("select distinct state from data_freshness").fetchall() == [("loaded",)]


def test_a_reader_that_began_before_the_first_publication_does_not_find_an_empty_table(
    database: Database, bucket: Files
) -> None:
    load_customers(database)
    with database.connect("pipeline") as building, database.connect("ds_user") as reader, ThreadPoolExecutor(1) as pool:
        with building.transaction():
            building.execute("insert into public.feature_store values (1, 1, 'A', 1, 1, 0)")
            building.execute("select pipeline.open_to_readers('feature_store')")
            found = pool.submit(lambda: reader.execute("select count(*) from feature_store").fetchall())
            waiting = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
            with database.connect() as admin:
                while not admin.execute(waiting, [reader.info.backend_pid]).fetchall():
                    assert not found.done()
        assert found.result(60) == [(1,)]


def loads_again(database: Database, _: Files) -> None:
    load_month(database, MONTHS[0])
    load_customers(database)
    build_feature_store(database)


def load_fails(database: Database, bucket: Files) -> None:
    bucket.write("stores.csv", "idx,location\n2,Porto\n")
    with pytest.raises(CheckViolation):
        load_month(database, MONTHS[0])


def migrates(database: Database, _: Files) -> None:
    for steps_of_alembic in (["downgrade", "-1"], ["upgrade", "head"]):
        done = database.alembic(*steps_of_alembic)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("event", [loads_again, load_fails, migrates])
def test_what_a_person_revokes_later_stays_revoked_and_what_is_open_stays_open(
    database: Database, bucket: Files, event: Callable[[Database, Files], None]
) -> None:
    loads_again(database, bucket)
    assert open_tables(database) == TABLES
    for table in ("labels", "monthly_sales", "feature_store"):
        database.run(f"revoke select on {table} from ds_user_role")
    event(database, bucket)
    assert open_tables(database) == ["customer_profiles", "customer_activity", "stores", "sales"]
    database.run("delete from feature_store where false", "mle_user")


def test_a_table_that_is_made_again_is_closed_until_it_is_published(database: Database, bucket: Files) -> None:
    loads_again(database, bucket)
    for steps_of_alembic in (["downgrade", "0006"], ["upgrade", "head"]):
        done = database.alembic(*steps_of_alembic)
        assert done.returncode == 0, done.stderr
    assert open_tables(database) == [*CUSTOMER_TABLES, *SALES_TABLES]
    build_feature_store(database)
    assert open_tables(database) == TABLES


def test_only_the_pipeline_opens_a_table(database: Database) -> None:
    for user in ("ds_user", "mle_user"):
        with pytest.raises(InsufficientPrivilege):
            database.run("select pipeline.open_to_readers('stores')", user)
