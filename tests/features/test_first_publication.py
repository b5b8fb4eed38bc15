"""The features are closed until the first build that has a row; all else is open from the upgrade on."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from typing import Any

import psycopg
import pytest
from conftest import Database, Files
from psycopg.errors import CheckViolation, InsufficientPrivilege
from support import csv_text, steps
from support.breakpoints import wait_for
from support.bucket_files import write_customers, write_month
from support.steps import CUSTOMERS, FEATURES, Run, build_feature_store, connect, load_customers, load_month, run_sql

pytestmark = pytest.mark.slow

OTHER_TABLES = ["customer_profiles", "customer_activity", "labels", "stores", "sales", "monthly_sales"]
FEATURE_TABLES = ["feature_history", "feature_store"]
TABLES = [*OTHER_TABLES, *FEATURE_TABLES]
MONTH = "2024-01-01"
# What follows the commit of a rebuild.
*REBUILD, OPEN = steps.dag(FEATURES).get_task("refresh_feature_store").sql


@pytest.fixture
def bucket(files: Files) -> Files:
    write_customers(files)
    write_month(files, MONTH[:7])
    return files


def is_allowed(connection: psycopg.Connection[Any], statement: str) -> bool:
    try:
        connection.execute(statement.encode())
    except InsufficientPrivilege:
        return False
    return True


def open_tables(database: Database) -> list[str]:
    """The tables that are open; fails if one is open in part, or if the features are open and empty."""
    found = []
    with database.connect("ds_user") as ds, database.connect("mle_user") as mle:
        for table in TABLES:
            column = "store_idx" if table in ("sales", "monthly_sales") else "idx"
            allowed = {
                is_allowed(ds, f"select * from {table}"),
                is_allowed(mle, f"select * from {table}"),
                is_allowed(mle, f"insert into {table} select * from {table} where false"),
                is_allowed(mle, f"update {table} set {column} = {column} where false"),
                is_allowed(mle, f"delete from {table} where false"),
            }
            assert len(allowed) == 1, table
            if allowed == {True}:
                found.append(table)
                assert table not in FEATURE_TABLES or ds.execute(f"select from {table}").rowcount > 0, table
    return found


def test_the_features_are_closed_until_the_first_build_that_has_a_row(database: Database, bucket: Files) -> None:
    assert open_tables(database) == OTHER_TABLES  # right after the upgrade
    assert database.run("select count(*) from data_freshness where status = 'missing'", "ds_user") == [(8,)]
    build_feature_store(database)  # from no files
    customers = Run(database, CUSTOMERS)
    for task in customers.tasks:
        customers.run(task)
        assert open_tables(database) == OTHER_TABLES, task
    # The only client has no label.
    bucket.write("labels.csv", csv_text.labels())
    load_customers(database)
    build_feature_store(database)
    assert open_tables(database) == OTHER_TABLES
    bucket.write("labels.csv", csv_text.labels("1,0"))
    load_customers(database)
    assert open_tables(database) == OTHER_TABLES
    build_feature_store(database)
    assert open_tables(database) == TABLES

    # They stay open if a later build empties them.
    bucket.write("labels.csv", csv_text.labels())
    load_customers(database)
    build_feature_store(database)
    for user in ("ds_user", "mle_user"):
        assert database.run("select count(*) from feature_store", user) == [(0,)]


def test_functions_and_views_on_closed_features_are_denied_too(database: Database, bucket: Files) -> None:
    body = "(select count(*) from feature_store)"
    database.run("create view public.clients as select idx from feature_store", "mle_user")
    database.run(f"create function clients_of_today() returns bigint language sql return {body}", "mle_user")
    tables = ("feature_store_as_of('2024-01-01')", "feature_store_at('{1}', '{2024-01-01}')", "clients")
    asked = [(user, f"select * from {table}") for user, table in product(("ds_user", "mle_user"), tables)]
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


def test_readers_that_wait_for_the_first_build_are_denied_if_it_fails_and_else_see_rows(
    database: Database, bucket: Files
) -> None:
    load_customers(database)
    run_sql(connect(database), REBUILD, {})
    queries = {"ds_user": "select count(*) from feature_store", "mle_user": "select count(*) from feature_history"}
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        readers = {stack.enter_context(database.connect(user)): query for user, query in queries.items()}
        for fails in (True, False):
            with connect(database) as building, building.transaction(force_rollback=fails):
                for reader, query in readers.items():
                    assert not is_allowed(reader, query)
                building.execute(OPEN.encode())
                waiting = [
                    pool.submit(lambda args: args[0].execute(args[1]).fetchall(), each) for each in readers.items()
                ]
                pid = building.info.backend_pid
                blocked = f"select pid from pg_stat_activity where {pid} = any(pg_blocking_pids(pid))"
                wait_for(database, blocked, enough=lambda rows: len(rows) == len(queries))
            for each in waiting:
                if fails:
                    with pytest.raises(InsufficientPrivilege):
                        each.result(60)
                else:
                    assert each.result(60) == [(1,)]


def loads_again(database: Database, _: Files) -> None:
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)


def load_fails(database: Database, bucket: Files) -> None:
    bucket.write(f"sales/{MONTH}/sales.csv", csv_text.sales(f"1,5,{MONTH},9"))
    with pytest.raises(CheckViolation):
        load_month(database, MONTH)
    database.run("alter table feature_store add constraint none check (attr_a < 2)")
    bucket.write("customer_profiles.csv", csv_text.profiles("1,2,A,x"))
    load_customers(database)
    with pytest.raises(CheckViolation):
        build_feature_store(database)


def features_are_built_again(database: Database, bucket: Files) -> None:
    database.run("delete from feature_store")
    database.run("delete from feature_history")
    for _ in range(2):
        build_feature_store(database)


def migrates(database: Database, _: Files) -> None:
    database.migrate("downgrade -1", "upgrade head")


def test_what_a_person_revokes_stays_revoked_and_what_is_open_stays_open(database: Database, bucket: Files) -> None:
    loads_again(database, bucket)
    assert open_tables(database) == TABLES
    for table in ("labels", "monthly_sales", "feature_store"):
        database.run(f"revoke all on {table} from ds_user_role, mle_user_role")
    for event in (loads_again, features_are_built_again, migrates, load_fails):
        event(database, bucket)
        left = ["customer_profiles", "customer_activity", "stores", "sales", "feature_history"]
        assert open_tables(database) == left, event

    # Features that are made again are closed until they are built.
    database.migrate("downgrade 0106", "upgrade head")
    assert open_tables(database) == [table for table in left if table not in FEATURE_TABLES]
    build_feature_store(database)
    assert open_tables(database) == [*left, "feature_store"]
