"""Runs side by side: one month twice, several months, rebuilds, migrations, keys of other tables, and readers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from conftest import Database, FaultyFiles, Files, Rows
from support import bucket_files, csv_text, faulty_bucket, steps
from support.breakpoints import WAIT_SECONDS, locks_on_tables, paused, pausing, run_beside, wait_until_blocked
from support.readers import all_results, idle_reader, reading
from support.steps import SALES, Run, alter_sales, build_feature_store, load_customers, load_month, staged_tables
from support.versions import (
    EVERYTHING,
    FEBRUARY,
    JANUARY,
    MARCH,
    MONTHS,
    ROWS,
    month_text,
    path_of,
    seen,
    shown,
    write_all,
    write_customers,
    write_sales,
)

from company_data.errors import FileRejected
from company_data.loads import SUPERSEDED
from company_data.settings import CONNECTION_OPTIONS

pytestmark = pytest.mark.slow

CUSTOMER_TABLES = ("customer_profiles", "customer_activity", "labels")
steps.dag(SALES)  # Airflow reads DAG files in the main thread alone

# The months and stores of which monthly_sales is not the sum of sales, in two orders of the tables and so of locks.
SUMS = "(select date as sale_month, store_idx, sum(value) as total from sales group by date, store_idx) as sums"
DIFFERENCES = [
    f"select * from {tables} using (sale_month, store_idx) where total is distinct from value"
    for tables in (f"{SUMS} full join monthly_sales", f"monthly_sales full join {SUMS}")
]


# Runs of sales


def test_one_month_many_times_at_once_and_other_months_beside_it_end_with_the_file_that_was_requested_last(
    database: Database, faulty: FaultyFiles
) -> None:
    write_sales(faulty, 0)
    for month in MONTHS:
        load_month(database, month)
    loads = [FEBRUARY, JANUARY, FEBRUARY, MARCH, FEBRUARY, FEBRUARY]
    for month in MONTHS:
        texts = [month_text(month, version) for version in range(1, loads.count(month) + 1)]
        faulty.answers[path_of(month)] = [faulty_bucket.stored(text.encode()) for text in texts]
    counts = "select count(*), count(distinct (date, value)) from sales"
    with reading(database, counts, *DIFFERENCES) as found, ThreadPoolExecutor(8) as pool:
        all_results([pool.submit(load_month, database, month) for month in loads])
    assert found == [{(3 * ROWS, 3)}, set(), set()]
    [(sales, *_)] = shown(database)
    assert sales == ", ".join(f"{month} {loads.count(month)} {ROWS}" for month in MONTHS)
    # The newest list of stores may be that of a run whose month was superseded: then it waits for a newer one.
    newest = "select distinct on (file_id) status from pipeline.loads join pipeline.files using (file_id)"
    newest = f"{newest} where file_month is not null order by file_id, request_number desc"
    assert database.run(newest) == [("published",)] * 3
    assert [table for table in staged_tables(database) if not table.startswith("stores_")] == []


@pytest.mark.parametrize("later_publishes_first", [False, True])
def test_of_two_runs_that_publish_one_month_at_once_the_second_waits_for_the_first(
    database: Database, files: Files, later_publishes_first: bool
) -> None:
    write_sales(files, 1)
    load_month(database, FEBRUARY)
    runs = [Run(database, SALES, FEBRUARY) for _ in range(2)]
    for version, run in enumerate(runs, 2):
        write_sales(files, version)
        run.run("stage_sales", "stage_stores", "check_month")
    first, second = reversed(runs) if later_publishes_first else runs
    run_beside(database, "insert public.sales", lambda: first.run("publish_month"), lambda: second.run("publish_month"))
    assert shown(database) == seen({FEBRUARY: 3})
    statuses = "select status from pipeline.loads join pipeline.files using (file_id) where file_month is not null"
    assert database.run(f"{statuses} order by load_id") == [("superseded",), ("superseded",), ("published",)]


def test_a_run_whose_month_other_runs_publish_at_any_point_of_its_check_is_skipped(
    database: Database, files: Files
) -> None:
    write_sales(files, 1)
    older = Run(database, SALES, FEBRUARY)
    statements = DbApiHook.split_sql_string(older.dag.get_task("check_month").sql)
    # A run that publishes waits for the verdicts of another, from this statement on until they are committed.
    [verdicts] = [number for number, statement in enumerate(statements) if "check_load" in statement]
    version = 1
    for point in [*range(verdicts + 1), len(statements)]:
        older.run("stage_sales", "stage_stores")
        parameters = older.parameters("check_month")
        try:
            with steps.connect(database) as checking, ExitStack() as stack:
                stack.enter_context(checking.transaction())
                for statement in statements[:point]:
                    checking.execute(statement, parameters)
                if point == len(statements):
                    stack.close()
                # The first of them supersedes the older run, the second removes what superseded runs have left.
                for _ in range(2):
                    version += 1
                    write_sales(files, version)
                    load_month(database, FEBRUARY)
                for statement in statements[point:]:
                    checking.execute(statement, parameters)
        except psycopg.Error as error:
            if error.sqlstate != SUPERSEDED:
                raise
        older.run("compare_month", "publish_month")
        assert shown(database) == seen({FEBRUARY: version})
    load_month(database, FEBRUARY)
    assert staged_tables(database) == []


def test_four_months_side_by_side_are_all_loaded_and_wait_for_the_list_of_stores_alone(
    database: Database, files: Files
) -> None:
    months = [FEBRUARY, JANUARY, MARCH, "2024-04-01"]
    write_sales(files, 1, *months)
    runs = [Run(database, SALES, month) for month in months]
    for run in runs:
        run.run("stage_sales", "stage_stores", "check_month", "compare_month")
    with ThreadPoolExecutor(len(months)) as pool, database.connect() as holder:
        with paused(database, "insert public.sales", lambda: runs[0].run("publish_month")) as pid:
            others = [pool.submit(run.run, "publish_month") for run in runs[1:]]
            wait_until_blocked(database, pid)
            assert shown(database) == seen({})
        all_results(others)
        assert shown(database) == seen(dict.fromkeys(months, 1))
        write_sales(files, 2, *months)
        with holder.transaction():
            # The file of a month is locked for that month alone.
            locked = f"pipeline.files where (table_name, file_month) = ('sales', '{FEBRUARY}')"
            holder.execute(f"select from {locked} for no key update")
            february, *others = [pool.submit(load_month, database, month) for month in months]
            wait_until_blocked(database, holder.info.backend_pid, february)
            all_results(others)
            assert shown(database) == seen(dict.fromkeys(months, 2) | {FEBRUARY: 1})
        all_results([february])
    assert shown(database) == seen(dict.fromkeys(months, 2))
    assert database.run("select distinct status from month_status") == [("loaded",)]
    assert staged_tables(database) == []


# Readers


def test_a_vacuum_after_a_smaller_file_does_not_truncate_which_would_refuse_readers(
    database: Database, files: Files
) -> None:
    emptied = ["partitions.sales_2024_02", "monthly_sales", *CUSTOMER_TABLES]
    sizes = []
    write_sales(files, 1)
    # The second file is written behind the first one, the third in its place: then the last pages are empty.
    for rows in (2_000, 10, 20):
        files.write(path_of(FEBRUARY), month_text(FEBRUARY, 1, rows))
        load_month(database, FEBRUARY)
        for table in emptied:
            database.run(f"vacuum {table}")
        sizes += database.run("select pg_relation_size('partitions.sales_2024_02')")
    assert sizes == sorted(sizes)
    kept = "select bool_and('vacuum_truncate=off' = any(reloptions)) from pg_class where oid = any(%s::regclass[])"
    with database.connect() as admin:
        assert admin.execute(kept, [emptied]).fetchall() == [(True,)]


def test_loads_go_on_beside_sessions_that_hold_every_table_open_and_see_one_version_or_the_newest(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(files, 1)
    load_month(database, FEBRUARY)
    load_customers(database)
    build_feature_store(database)
    tables = database.run("""
        select oid::regclass::text from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v')
        and has_table_privilege('ds_user', oid, 'select') and relname <> 'feature_rows'
    """)
    assert len(tables) > 7
    with ExitStack() as stack:
        newest = idle_reader(database, stack, *(name for (name,) in tables))
        # Each has read one of the tables, and reads the others for the first time after the loads.
        touched = ("data_freshness", "sales", "stores", "labels")
        repeatable = [idle_reader(database, stack, table, repeatable=True) for table in touched]
        # A load that waited for one of them would fail.
        monkeypatch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=1ms")
        for version in (2, 3):
            write_all(files, version)
            load_month(database, MARCH)
            report = f"monthly_sales of {FEBRUARY}: 2 stores, total {version * ROWS}, of {ROWS} sales"
            assert load_month(database, FEBRUARY)[-1] == report
            load_customers(database)
            build_feature_store(database)
            for table in ("sales", "monthly_sales", "stores", *CUSTOMER_TABLES):
                database.run(f"vacuum {table}")
            new = seen({FEBRUARY: version, MARCH: version}, version)
            old = [reader.execute(EVERYTHING).fetchall() for reader in repeatable]
            assert old == [seen({FEBRUARY: 1}, 1)] * len(repeatable)
            assert newest.execute(EVERYTHING).fetchall() == shown(database) == new
            assert database.run("select distinct attr_a, scd_a from feature_store") == [(version, version)]
            assert staged_tables(database) == []


POINTS_OF_A_MONTH = [
    *(f"sales {status}" for status in ("begun", "requested", "staged", "checked", "published")),
    "stores published",
    "insert public.stores",
    *(f"{event} public.{table}" for table in ("sales", "monthly_sales") for event in ("delete", "insert")),
    "before commit",
]
POINTS_OF_CUSTOMERS = [
    "labels staged",
    "customer_profiles checked",
    *(f"{table} published" for table in CUSTOMER_TABLES),
    *(f"{event} public.{table}" for table in CUSTOMER_TABLES for event in ("delete", "insert")),
    "before commit",
]


@pytest.mark.parametrize(
    ("points", "old", "new"),
    [
        (POINTS_OF_A_MONTH, seen({}), seen({FEBRUARY: 2})),
        (POINTS_OF_A_MONTH, seen({FEBRUARY: 1}, 1), seen({FEBRUARY: 2}, 1)),
        (POINTS_OF_CUSTOMERS, seen({FEBRUARY: 1}, 1), seen({FEBRUARY: 1}, 2)),
    ],
    ids=["first month", "month again", "customers"],
)
def test_readers_see_the_old_version_without_waiting_until_the_load_commits(
    database: Database, files: Files, points: list[str], old: Rows, new: Rows
) -> None:
    if old != seen({}):
        write_all(files, 1)
        load_month(database, FEBRUARY)
        load_customers(database)
    write_all(files, 2)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        # One reader has read a table already and then wants the others.
        readers = [idle_reader(database, stack, "labels"), stack.enter_context(database.connect("ds_user"))]
        for reader in readers:
            reader.execute("set lock_timeout = '1ms'")
        pauses = [stack.enter_context(pausing(database, point)) for point in points]
        is_month = points is POINTS_OF_A_MONTH
        running = pool.submit(load_month, database, FEBRUARY) if is_month else pool.submit(load_customers, database)
        for pause in pauses:
            pid = pause.wait(running)
            assert [reader.execute(EVERYTHING).fetchall() for reader in readers] == [old, old]
            # The only mode that readers wait for. A transaction keeps its locks until it ends.
            assert "AccessExclusiveLock" not in locks_on_tables(database, pid)
            pause.release()
        all_results([running])
        assert [reader.execute(EVERYTHING).fetchall() for reader in readers] == [new, new]


# The feature store


def test_customer_loads_and_rebuilds_of_the_feature_store_at_once_never_show_a_mixture(
    database: Database, files: Files
) -> None:
    write_customers(files, 1)
    load_customers(database)
    build_feature_store(database)
    # A profile's attr_a and an activity's scd_a come from the same version of the files, or the mixture shows.
    # Nor does feature_store ever differ from the rows of feature_history, or one of these have two rows for a client.
    mixtures = """
        select
            count(*), count(*) filter (where store.attr_a = store.scd_a), count(distinct store.attr_a),
            count(*) filter (where store = row(
                history.idx, history.attr_a, history.attr_b, history.scd_a, history.scd_b, history.label
            ))
        from feature_store as store
        full join (select * from feature_history where known_to is null) as history on store.idx = history.idx
    """
    with reading(database, mixtures) as (answers,), ThreadPoolExecutor(3) as pool:
        for version in range(2, 5):
            write_customers(files, version)
            running = [pool.submit(build_feature_store, database) for _ in range(2)]
            all_results([*running, pool.submit(load_customers, database)])
    assert answers == {(3, 3, 1, 3)}
    build_feature_store(database)
    assert database.run("select distinct attr_a, scd_a from feature_store") == [(4, 4.0)]


def test_a_rebuild_waits_for_another_writes_nothing_twice_and_names_the_loads_whose_rows_it_has_read(
    database: Database, files: Files
) -> None:
    def build() -> None:
        build_feature_store(database)

    write_customers(files, 1)
    load_customers(database)
    run_beside(database, "insert public.feature_store", build, build)
    assert database.run("select count(*), count(distinct xmin::text) from feature_store") == [(3, 1)]

    write_customers(files, 2)
    load_customers(database)
    write_customers(files, 3)
    run_beside(database, "delete pipeline.rejected_builds", build, lambda: load_customers(database))
    [(version,)] = database.run("select distinct attr_a from feature_store")
    newest = "select loads from pipeline.feature_store_builds order by built_at desc limit 1"
    of_newest = f"select distinct status from pipeline.loads where load_id = any(({newest})::bigint[])"
    [(published,)] = database.run(of_newest)
    assert (version, published) in [(2, "superseded"), (3, "published")]


# Migrations


def test_a_load_that_a_migration_overtakes_is_rejected_and_one_that_writes_already_is_waited_for(
    database: Database, files: Files
) -> None:
    write_sales(files, 1)
    load_month(database, FEBRUARY)
    write_sales(files, 2)
    run = Run(database, SALES, FEBRUARY)
    was_staged = r"staging\.sales \(.*note text\)"
    # While a file is copied, a migration of its staging table waits.
    for point, error in {
        "sales requested": 'the header lacks "note"',
        "stores requested": was_staged,
        "sales checked": was_staged,
    }.items():
        errors = (FileRejected, psycopg.errors.CheckViolation)
        with pytest.raises(errors, match=error), paused(database, point, run.run):
            alter_sales(database, "add column note text")
        assert shown(database) == seen({FEBRUARY: 1})
        alter_sales(database, "drop column note")
    run_beside(database, "sales published", run.run, lambda: alter_sales(database, "add column note text"))
    assert shown(database) == seen({FEBRUARY: 2})
    change = "alter table labels add column note text; alter table staging.labels add column note text"
    write_customers(files, 1)
    run_beside(database, "customer_profiles published", lambda: load_customers(database), lambda: database.run(change))


# Keys of other tables


# The tables with a key that loads do not empty, so that a foreign key onto them is no trouble.
KEYED = ("stores", "feature_store")
# By the first a row that is deleted for a moment takes others with it.
CASCADE, RESTRICT = "on delete cascade", "on delete no action"


def load_all(database: Database, files: Files, stores: dict[int, str], clients: dict[int, int]) -> None:
    """Load these stores, which all sold something, and the attribute of each of these clients."""
    bucket_files.write_month(files, FEBRUARY[:7], *(f"{n},5,{FEBRUARY},{n}" for n in stores))
    files.write("stores.csv", csv_text.stores(*(f"{n},{location}" for n, location in stores.items())))
    profiles, activity = (f"{n},{value},A,x" for n, value in clients.items()), (f"{n},2020-01-01,,1,1" for n in clients)
    bucket_files.write_customers(files, profiles, activity, (f"{n},0" for n in clients))
    load_month(database, FEBRUARY)
    load_customers(database)
    build_feature_store(database)


def refer_to(database: Database, clause: str, *tables: str) -> None:
    """As mle_user, refer to every row of keyed tables."""
    for table in tables:
        database.run(f"drop table if exists notes_of_{table}", "mle_user")
        database.run(f"create table notes_of_{table} as select idx from {table}", "mle_user")
        reference = f"constraint key_of_{table} foreign key (idx) references {table} {clause}"
        database.run(f"alter table notes_of_{table} add {reference}", "mle_user")


def referring(database: Database) -> list[list[int | None]]:
    """The keys in the tables that refer."""
    return [[key for (key,) in database.run(f"select idx from notes_of_{table} order by 1")] for table in KEYED]


def versions_of_rows(database: Database) -> dict[tuple[str, int], str]:
    """Where each row of the keyed tables is, and which transactions have written and locked it."""
    places = "idx, concat_ws(' ', ctid, xmin, xmax)"
    rows = [(table, *row) for table in KEYED for row in database.run(f"select {places} from {table}")]
    return {(table, idx): place for table, idx, place in rows}


def test_a_load_touches_no_store_and_no_client_that_did_not_change_and_an_error_names_who_refers_to_one_that_vanishes(
    database: Database, files: Files
) -> None:
    first = {1: "Porto", 2: "Faro", 3: "Braga"}, {1: 1, 2: 1, 3: 1}
    load_all(database, files, *first)
    refer_to(database, CASCADE, *KEYED)
    before = versions_of_rows(database)
    load_all(database, files, *first)
    assert versions_of_rows(database) == before
    # One store moves, one comes and one is missing; one client changes and one comes.
    load_all(database, files, {1: "Porto", 2: "Lisboa", 4: "Braga"}, {1: 1, 2: 2, 3: 1, 4: 1})
    after = versions_of_rows(database)
    changed = {row for row in before | after if before.get(row) != after.get(row)}
    assert changed == {(table, idx) for table in KEYED for idx in (2, 4)}
    assert referring(database) == [[1, 2, 3], [1, 2, 3]]
    # A client that vanishes changes only the rows that refer to it.
    load_all(database, files, {1: "Porto"}, {1: 1, 2: 2})
    assert referring(database) == [[1, 2, 3], [1, 2]]

    refer_to(database, RESTRICT, "feature_store")
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as error:
        load_all(database, files, {1: "Porto"}, {1: 1})
    who = '"feature_store" violates foreign key constraint "key_of_feature_store" on table "notes_of_feature_store"'
    for part in (who, "Key (idx)=(2) is still referenced"):
        assert part in str(error.value)
    assert database.run("select idx from feature_store order by 1") == [(1,), (2,)]
    database.run("delete from notes_of_feature_store", "mle_user")
    build_feature_store(database)
    assert database.run("select idx from feature_store") == [(1,)]


def test_a_foreign_key_onto_monthly_sales_that_comes_while_the_month_is_loaded_loses_no_row(
    database: Database, files: Files
) -> None:
    write_sales(files, 1)
    load_month(database, FEBRUARY)
    write_sales(files, 2)
    with database.connect("mle_user") as mle:
        mle.execute("set lock_timeout = '1ms'")
        mle.execute("create table notes as select sale_month, store_idx from monthly_sales")
        with paused(database, "insert public.sales", lambda: load_month(database, FEBRUARY)):
            key = f"foreign key (sale_month, store_idx) references monthly_sales {CASCADE}"
            with pytest.raises(psycopg.errors.LockNotAvailable):
                mle.execute(f"alter table notes add {key}")
    assert database.run("select count(*) from notes") == [(2,)]
    assert shown(database) == seen({FEBRUARY: 2})


def test_a_transaction_that_refers_to_rows_and_a_load_that_changes_them_do_not_wait_for_each_other(
    database: Database, files: Files
) -> None:
    load_all(database, files, {1: "Porto", 2: "Faro"}, {1: 1, 2: 1})
    refer_to(database, CASCADE, *KEYED)
    copies = [f"insert into notes_of_{table} select idx from {table}" for table in KEYED]
    works: dict[str, Callable[[], object]] = {
        "insert public.monthly_sales": lambda: load_month(database, FEBRUARY),
        "insert public.feature_store": lambda: build_feature_store(database),
    }
    with database.connect("mle_user") as mle:
        with mle.transaction():
            for copy in copies:
                mle.execute(copy)
            load_all(database, files, {1: "Lisboa", 2: "Faro"}, {1: 2, 2: 1})
        write_all(files, 3)
        load_customers(database)
        mle.execute(f"set lock_timeout = '{WAIT_SECONDS}s'")
        for point, work in works.items():
            with paused(database, point, work):
                for copy in copies:
                    mle.execute(copy)
    assert [len(keys) for keys in referring(database)] == [8, 8]
    assert database.run("select location from stores order by idx") == [("A 3",), ("B 3",)]
    assert database.run("select attr_a from feature_store order by idx") == [(3,), (3,), (3,)]
