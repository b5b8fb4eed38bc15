"""The features are closed until the first build that has a row; all else is open from the upgrade on."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Database, Files
from psycopg.errors import CheckViolation, InsufficientPrivilege, UndefinedTable
from support import steps
from support.steps import (
    CUSTOMERS,
    FEATURES,
    SALES,
    Run,
    build_feature_store,
    connect,
    load_customers,
    load_month,
    run_sql,
)

pytestmark = pytest.mark.slow

OTHER_TABLES = ["customer_profiles", "customer_activity", "labels", "stores", "sales", "monthly_sales"]
FEATURE_TABLES = ["feature_history", "feature_store"]
TABLES = [*OTHER_TABLES, *FEATURE_TABLES]
MONTH = "2024-01-01"
# What follows the commit of a rebuild.
*REBUILD, OPEN = steps.dag(FEATURES).get_task("refresh_feature_store").sql


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
    files.write(f"sales/{MONTH}/sales.csv", f"idx,value,date,store_idx\n1,5,{MONTH},1\n")
    return files


def is_allowed(database: Database, user: str, statement: str) -> bool:
    try:
        database.run(statement, user)
    except InsufficientPrivilege:
        return False
    return True


def open_tables(database: Database) -> list[str]:
    """The tables that are open; fails if one is open in part, or if the features are open and empty."""
    found = []
    for table in TABLES:
        column = database.run(
            f"select attname from pg_attribute where attrelid = 'public.{table}'::regclass and attnum = 1"
        )[0][0]
        allowed = {
            is_allowed(database, user, statement)
            for user, statement in (
                ("ds_user", f"select * from {table}"),
                ("mle_user", f"select * from {table}"),
                ("mle_user", f"insert into {table} select * from {table} where false"),
                ("mle_user", f"update {table} set {column} = {column} where false"),
                ("mle_user", f"delete from {table} where false"),
            )
        }
        assert len(allowed) == 1, table
        if allowed == {True}:
            found.append(table)
            assert table not in FEATURE_TABLES or database.run(f"select count(*) > 0 from {table}") == [(True,)], table
    return found


def test_all_but_the_features_is_open_right_after_the_upgrade(database: Database) -> None:
    assert open_tables(database) == OTHER_TABLES
    assert database.run("select count(*) from data_freshness where status = 'missing'", "ds_user") == [(8,)]


def test_the_features_are_closed_until_the_first_build_that_has_a_row(database: Database, bucket: Files) -> None:
    build_feature_store(database)  # from no files
    assert open_tables(database) == OTHER_TABLES
    customers = Run(database, CUSTOMERS)
    for task in customers.tasks:
        customers.run(task)
        assert open_tables(database) == OTHER_TABLES, task
    # The only client has no label.
    bucket.write("labels.csv", "idx,label\n")
    load_customers(database)
    build_feature_store(database)
    assert open_tables(database) == OTHER_TABLES
    bucket.write("labels.csv", "idx,label\n1,0\n")
    load_customers(database)
    assert open_tables(database) == OTHER_TABLES
    build_feature_store(database)
    assert open_tables(database) == TABLES


def downstream_job(database: Database) -> str:
    """The job of others: it waits while the table does not exist or is denied, and dies on one without rows."""
    while True:
        try:
            with database.connect("ds_user") as connection:
                labels = connection.execute("select label from feature_store").fetchall()
        except (UndefinedTable, InsufficientPrivilege):
            time.sleep(0.05)
            continue
        [(label, _)] = Counter(label for (label,) in labels).most_common(1)
        return f"trained on {len(labels)} rows: {label}"


@pytest.mark.usefixtures("template")  # the logins exist
def test_a_job_that_waits_for_the_feature_store_since_before_the_upgrade_trains_on_its_first_rows(
    empty_database: Database, bucket: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", empty_database.url("pipeline"))
    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(downstream_job, empty_database)
        done = empty_database.alembic("upgrade", "head")
        assert done.returncode == 0, done.stderr
        build_feature_store(empty_database)
        load_customers(empty_database)
        assert not trained.done()
        build_feature_store(empty_database)
        assert trained.result(60) == "trained on 1 rows: 0"


def test_features_that_a_later_build_empties_stay_open(database: Database, bucket: Files) -> None:
    loads_again(database, bucket)
    bucket.write("labels.csv", "idx,label\n")
    load_customers(database)
    build_feature_store(database)
    for user in ("ds_user", "mle_user"):
        assert database.run("select count(*) from feature_store", user) == [(0,)]


def test_functions_and_views_on_closed_features_are_denied_too(database: Database, bucket: Files) -> None:
    database.run("create view public.clients as select idx from feature_store", "mle_user")
    database.run(
        "create function public.clients_of_today() returns bigint language sql return "
        "(select count(*) from feature_store)",
        "mle_user",
    )
    queries = [
        "select * from feature_store_as_of('2024-01-01')",
        "select * from feature_store_at('{1}', '{2024-01-01}')",
        "select * from clients",
    ]
    asked = [(user, query) for user in ("ds_user", "mle_user") for query in queries]
    asked.append(("mle_user", "select clients_of_today()"))
    for user, query in asked:
        with pytest.raises(InsufficientPrivilege):
            database.run(query, user)
    load_customers(database)
    build_feature_store(database)
    for user, query in asked:
        assert len(database.run(query, user)) == 1


def test_a_first_build_that_fails_opens_nothing(database: Database, bucket: Files) -> None:
    load_customers(database)
    for table in FEATURE_TABLES:
        database.run(f"alter table {table} add constraint none check (false)")
        with pytest.raises(CheckViolation):
            build_feature_store(database)
        assert open_tables(database) == OTHER_TABLES
        database.run(f"alter table {table} drop constraint none")
    build_feature_store(database)
    assert open_tables(database) == TABLES


def test_a_transaction_that_has_read_data_freshness_does_not_stop_the_first_loads(
    database: Database, bucket: Files
) -> None:
    with database.connect("ds_user") as waiting, waiting.transaction():
        assert waiting.execute("select distinct status from data_freshness").fetchall() == [("missing",)]
        loads_again(database, bucket)
        assert open_tables(database) == TABLES
        assert waiting.execute("select distinct status from data_freshness").fetchall() == [("loaded",)]


@pytest.mark.parametrize("table", FEATURE_TABLES)
@pytest.mark.parametrize("user", ["ds_user", "mle_user"])
def test_a_reader_that_waits_is_denied_and_then_sees_rows_and_never_an_empty_table(
    database: Database, bucket: Files, user: str, table: str
) -> None:
    load_customers(database)
    run_sql(connect(database), REBUILD, {})
    query = f"select count(*) from {table}"
    with connect(database) as opening, database.connect(user) as reader, ThreadPoolExecutor(1) as pool:
        with opening.transaction():
            with pytest.raises(InsufficientPrivilege):
                reader.execute(query)
            opening.execute(OPEN.encode())
            found = pool.submit(lambda: reader.execute(query).fetchall())
            waiting = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
            with database.connect() as admin:
                while not admin.execute(waiting, [reader.info.backend_pid]).fetchall():
                    assert not found.done()
        assert found.result(60) == [(1,)]


def test_a_reader_that_waits_for_an_opening_that_fails_is_denied(database: Database, bucket: Files) -> None:
    load_customers(database)
    run_sql(connect(database), REBUILD, {})
    with connect(database) as opening, database.connect("ds_user") as reader, ThreadPoolExecutor(1) as pool:
        with opening.transaction(force_rollback=True):
            opening.execute(OPEN.encode())
            found = pool.submit(lambda: reader.execute("select count(*) from feature_store").fetchall())
            waiting = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
            with database.connect() as admin:
                while not admin.execute(waiting, [reader.info.backend_pid]).fetchall():
                    assert not found.done()
        with pytest.raises(InsufficientPrivilege):
            found.result(60)


def loads_again(database: Database, _: Files) -> None:
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)


def load_fails(database: Database, bucket: Files) -> None:
    bucket.write(f"sales/{MONTH}/sales.csv", f"idx,value,date,store_idx\n1,5,{MONTH},9\n")
    with pytest.raises(CheckViolation):
        load_month(database, MONTH)
    database.run("alter table feature_store add constraint none check (attr_a < 2)")
    bucket.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c\n1,2,A,x\n")
    load_customers(database)
    with pytest.raises(CheckViolation):
        build_feature_store(database)


def features_are_built_again(database: Database, bucket: Files) -> None:
    database.run("delete from feature_store")
    database.run("delete from feature_history")
    for _ in range(2):
        build_feature_store(database)


def migrates(database: Database, _: Files) -> None:
    for steps_of_alembic in (["downgrade", "-1"], ["upgrade", "head"]):
        done = database.alembic(*steps_of_alembic)
        assert done.returncode == 0, done.stderr


def test_what_a_person_revokes_later_stays_revoked_and_what_is_open_stays_open(
    database: Database, bucket: Files
) -> None:
    loads_again(database, bucket)
    assert open_tables(database) == TABLES
    for table in ("labels", "monthly_sales", "feature_store"):
        database.run(f"revoke all on {table} from ds_user_role, mle_user_role")
    for event in (loads_again, features_are_built_again, migrates, load_fails):
        event(database, bucket)
        left = ["customer_profiles", "customer_activity", "stores", "sales", "feature_history"]
        assert open_tables(database) == left, event


def test_features_that_are_made_again_are_closed_until_they_are_built(database: Database, bucket: Files) -> None:
    loads_again(database, bucket)
    for steps_of_alembic in (["downgrade", "0106"], ["upgrade", "head"]):
        done = database.alembic(*steps_of_alembic)
        assert done.returncode == 0, done.stderr
    assert open_tables(database) == OTHER_TABLES
    build_feature_store(database)
    assert open_tables(database) == TABLES


@pytest.mark.parametrize("user", ["ds_user", "mle_user"])
def test_only_the_pipeline_opens_the_features(database: Database, user: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        database.run("select pipeline.open_feature_store()", user)
