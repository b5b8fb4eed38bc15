"""The life of a load: the ledger, data_freshness, and what the log of its task says."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from conftest import Database, Files, Rows, RunDag, month_after
from support.faulty_bucket import MisbehavingHandler, misbehaving
from support.steps import CUSTOMERS, Run, build_feature_store, load_customers, load_month
from support.steps import SALES as SALES_DAG

from company_data.errors import FileNotYetAvailable, FileRejected
from embedded.bucket import BucketHandler

pytestmark = pytest.mark.slow

MONTH = "2024-02-01"
SALES = f"sales/{MONTH}/sales.csv"
HEADER = "idx,value,date,store_idx\n"
TWO_SALES = HEADER + "1,10.10,2024-02-01,1\n2,0.20,2024-02-27,1\n"
ONE_SALE = HEADER + "1,5,2024-02-03,1\n"


@pytest.fixture
def february(files: Files) -> Files:
    files.write("stores.csv", "idx,location\n1,Porto\n")
    files.write(SALES, TWO_SALES)
    return files


def write_customer_files(files: Files) -> None:
    files.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c\n1,1,A,x\n2,2,B,x\n")
    files.write(
        "customer_activity.csv",
        "idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,2020-02-01,1,1\n1,2020-02-02,,1,1\n",
    )
    files.write("labels.csv", "idx,label\n1,0\n2,1\n")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_load_leaves_one_row_that_says_what_was_loaded(database: Database, february: Files, run_dag: RunDag) -> None:
    before = datetime.now(UTC)
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "success"
    with database.connect() as connection:
        cursor = connection.execute("""
            select loads.*, table_name, file_month
            from pipeline.loads
            inner join pipeline.files using (file_id)
            where table_name = 'sales'
        """)
        names = [column.name for column in cursor.description or []]
        [row] = [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
    moments = [row.pop(name) for name in ("started_at", "requested_at", "published_at", "updated_at")]
    assert [before, *moments] == sorted([before, *moments])
    assert before - timedelta(minutes=1) <= row.pop("last_modified") <= datetime.now(UTC)
    assert row.pop("run_id").startswith("manual__")
    # Files that are loaded have a number each, in the order of their requests.
    assert row.pop("request_number") == 1
    assert row == {
        "load_id": 1,
        "file_id": 1,
        "dag_id": "sales_load_and_aggregation",
        "staged_table": "staging.sales_1",
        "wait_until": None,
        "table_name": "sales",
        "file_month": date(2024, 2, 1),
        "source_url": f"{february.bucket.url}/{SALES}",
        "etag": hashlib.md5(TWO_SALES.encode(), usedforsecurity=False).hexdigest(),
        "bytes": len(TWO_SALES),
        "sha256": sha256(TWO_SALES),
        "row_count": 2,
        "max_date": date(2024, 2, 27),
        "total": Decimal("10.30"),
        "status": "published",
        "error": None,
        "anomalies": None,
        "decided_by": None,
        "decided_at": None,
        "decide_until": None,
    }


def test_the_attempt_is_in_the_ledger_before_the_file_is_requested_and_its_session_is_named_after_it(
    database: Database, february: Files
) -> None:
    seen: list[Rows] = []

    def look(handler: MisbehavingHandler) -> None:
        seen.append(
            database.run("""
                select status, requested_at is not null, pipeline.is_running(load_id) from pipeline.loads
            """)
        )
        BucketHandler.do_GET(handler)

    with misbehaving(february.folder) as (bucket, answers, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_BASE_URL", bucket.url)
        patch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        answers[SALES] = [look]
        Run(database, SALES_DAG, MONTH).run("stage_sales")
    # The time of the request is committed when the server has begun to answer.
    assert seen == [[("loading", False, True)]]
    assert database.run("select status, requested_at is not null from pipeline.loads") == [("staged", True)]


def test_staged_is_recorded_in_the_transaction_of_the_rows(database: Database, february: Files) -> None:
    Run(database, SALES_DAG, MONTH).run("stage_sales")
    # Frozen rows keep the transaction that wrote them.
    assert database.run("select distinct xmin::text from staging.sales_1") == database.run(
        "select xmin::text from pipeline.loads"
    )


def statuses(database: Database) -> dict[int, str]:
    return dict(database.run("select load_id, status from pipeline.loads"))


def staged(database: Database) -> set[str]:
    """The tables of loads, whose names end in their numbers, that the next load or the maintenance leaves."""
    database.run("select pipeline.clean_up()", "pipeline")
    tables = "select relname from pg_class where relnamespace = 'staging'::regnamespace and relname ~ '_[0-9]+$'"
    return {name for (name,) in database.run(tables)}


def test_a_load_goes_from_status_to_status(database: Database, february: Files) -> None:
    run = Run(database, SALES_DAG, MONTH)
    for task, expected, tables in (
        ("stage_sales", {1: "staged"}, {"sales_1"}),
        ("stage_stores", {1: "staged", 2: "staged"}, {"sales_1", "stores_2"}),
        ("check_month", {1: "checked", 2: "checked"}, {"sales_1", "stores_2"}),
        # The published list stays, so that the maintenance can compare it.
        ("publish_month", {1: "published", 2: "published"}, {"stores_2"}),
    ):
        run.run(task)
        assert statuses(database) == expected
        assert staged(database) == tables
    load_month(database, MONTH)
    assert statuses(database) == {1: "superseded", 2: "superseded", 3: "published", 4: "published"}
    assert staged(database) == {"stores_4"}


def test_a_rejected_file_stays_staged_until_the_file_is_loaded_again(database: Database, february: Files) -> None:
    february.write("stores.csv", "idx,location\n2,Faro\n")
    with pytest.raises(psycopg.errors.CheckViolation, match=r"staging\.sales_1"):
        load_month(database, MONTH)
    assert statuses(database) == {1: "rejected", 2: "checked"}
    assert database.run("select count(*) from stores") == [(0,)]
    assert staged(database) == {"sales_1", "stores_2"}
    february.write("stores.csv", "idx,location\n1,Porto\n")
    load_month(database, MONTH)
    assert statuses(database) == {1: "rejected", 2: "superseded", 3: "published", 4: "published"}
    assert staged(database) == {"stores_4"}


@pytest.mark.parametrize(
    ("content", "status"), [(None, "waiting"), ("no,header\n", "rejected")], ids=["waiting", "rejected"]
)
def test_an_attempt_that_stages_nothing_leaves_its_reason_and_no_table(
    content: str | None, status: str, database: Database, february: Files
) -> None:
    now = datetime.now(UTC)
    month = f"{now:%Y-%m}-01"
    if content:
        february.write(f"sales/{month}/sales.csv", content)
    with pytest.raises((FileNotYetAvailable, FileRejected)) as error:
        Run(database, SALES_DAG, month).run("stage_sales")
    assert database.run("select status, error from pipeline.loads") == [(status, str(error.value))]
    assert database.run("select wait_until > now() from pipeline.loads") == [(True if status == "waiting" else None,)]
    assert staged(database) == set()


def test_a_killed_attempt_is_failed_and_its_table_goes_with_the_next_load(database: Database, february: Files) -> None:
    with database.connect("pipeline") as loading:
        loading.execute("select pipeline.begin_load('sales', '2024-02-01', 'https://bucket', 'dag', 'killed')")
        loading.execute("select pipeline.create_staged(1)")
        load_month(database, MONTH)
        # A load that still runs is left alone.
        assert statuses(database)[1] == "loading"
        assert staged(database) == {"sales_1", "stores_3"}
    wait_until(lambda: database.run("select pipeline.is_running(1)") == [(False,)])
    load_month(database, MONTH)
    assert database.run("select status, error from pipeline.loads where load_id = 1") == [
        ("failed", "The process that loaded the file was killed. Clear the run to load the file again.")
    ]
    assert staged(database) == {"stores_5"}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_starts_again_supersedes_what_it_staged_before(database: Database, february: Files) -> None:
    run = Run(database, SALES_DAG, MONTH)
    run.run("stage_sales", "stage_stores")
    run.run()
    assert statuses(database) == {1: "superseded", 2: "superseded", 3: "published", 4: "published"}
    assert staged(database) == {"stores_4"}


def test_a_load_that_is_not_checked_is_not_published(database: Database, february: Files) -> None:
    run = Run(database, SALES_DAG, MONTH)
    run.run("stage_sales", "stage_stores")
    with pytest.raises(psycopg.errors.CheckViolation, match=r"is staged\. Only a checked load can be published"):
        run.run("publish_month")
    assert database.run("select count(*) from stores") == [(0,)]


def test_of_two_loads_the_one_that_requested_the_file_later_is_published(database: Database, february: Files) -> None:
    older, newer = Run(database, SALES_DAG, MONTH), Run(database, SALES_DAG, MONTH)
    older.run("stage_sales", "stage_stores")
    february.write(SALES, ONE_SALE)
    newer.run()
    assert statuses(database) == {1: "superseded", 2: "superseded", 3: "published", 4: "published"}
    older.run("check_month", "compare_month", "publish_month")
    assert database.run("select count(*) from sales") == [(1,)]
    assert database.run("select value from monthly_sales") == [(5,)]
    assert statuses(database) == {1: "superseded", 2: "superseded", 3: "published", 4: "published"}


@contextmanager
def overtaken(february: Files, database: Database) -> Iterator[None]:
    """Let a whole run request and publish the month while the next download of its sales has begun and goes on."""

    def overtake(handler: MisbehavingHandler) -> None:
        text = handler.content()
        handler.head(Content_Length=len(text))
        handler.wfile.flush()
        load_month(database, MONTH)
        handler.wfile.write(text)

    with misbehaving(february.folder) as (bucket, answers, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_BASE_URL", bucket.url)
        patch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        answers[SALES] = [overtake]
        yield


def test_a_load_that_is_staged_after_a_later_request_was_published_is_superseded_at_once(
    database: Database, february: Files
) -> None:
    older = Run(database, SALES_DAG, MONTH)
    with overtaken(february, database):
        older.run("stage_sales")
    assert statuses(database) == {1: "superseded", 2: "published", 3: "published"}
    february.write("stores.csv", "idx,location\n1,Faro\n")
    older.run("stage_stores", "check_month", "compare_month", "publish_month")
    assert statuses(database)[1] == "superseded"
    assert database.run("select location, value from monthly_sales") == [("Porto", Decimal("10.30"))]


def test_the_run_of_a_superseded_load_skips_its_task_and_says_why(
    database: Database, february: Files, run_dag: RunDag, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(database, SALES_DAG, MONTH).run("stage_sales")  # reads the DAG in this thread
    with overtaken(february, database):
        assert run_dag(SALES_DAG, month_after("2024-02")) == "success"
    log = capsys.readouterr().out
    assert f"{SALES}: load 2 is superseded, so there is nothing to do." in log
    assert "Skipping task" in log
    assert statuses(database)[3] == "published"


@pytest.mark.parametrize("shift", ["+ interval '10 years'", "- interval '10 years'"], ids=["ahead", "behind"])
def test_the_clock_of_the_server_does_not_decide_which_load_is_published(
    database: Database, february: Files, shift: str
) -> None:
    load_month(database, MONTH)
    write_customer_files(february)
    load_customers(database)
    # As if the clock had been wrong when everything was loaded so far.
    database.run(f"""
        update pipeline.loads
        set
            started_at = started_at {shift}, requested_at = requested_at {shift},
            published_at = published_at {shift}, updated_at = updated_at {shift}
    """)
    february.write(SALES, ONE_SALE)
    february.write("stores.csv", "idx,location\n1,Faro\n")
    february.write("labels.csv", "idx,label\n1,1\n2,1\n")
    load_month(database, MONTH)
    load_customers(database)
    assert database.run("select location, value from monthly_sales") == [("Faro", 5)]
    assert database.run("select location from stores") == [("Faro",)]
    assert database.run("select label from labels") == [(1,), (1,)]
    assert statuses(database) == dict.fromkeys(range(1, 6), "superseded") | dict.fromkeys(range(6, 11), "published")
    # Nor does it decide between two loads that are both checked.
    runs = [Run(database, SALES_DAG, MONTH) for _ in range(2)]
    for value, run in zip((6, 7), runs, strict=True):
        february.write(SALES, HEADER + f"1,{value},2024-02-03,1\n")
        run.run("stage_sales", "stage_stores", "check_month")
    database.run(f"update pipeline.loads set requested_at = requested_at {shift} where load_id > 12")
    for run in reversed(runs):
        run.run("publish_month")
    assert database.run("select value from sales") == [(7,)]


def test_a_new_attempt_of_an_earlier_run_that_is_rejected_does_not_supersede_a_later_run(
    database: Database, files: Files
) -> None:
    write_customer_files(files)
    earlier, later = Run(database, CUSTOMERS), Run(database, CUSTOMERS)
    earlier.run()
    later.run("stage_customer_profiles", "stage_customer_activity", "stage_labels")
    files.write("customer_profiles.csv", "no,header\n")
    with pytest.raises(FileRejected):
        earlier.run("stage_customer_profiles")
    later.run("check_customers", "compare_customers", "publish_customers")
    assert statuses(database) == {
        **dict.fromkeys((1, 2, 3), "superseded"),
        **dict.fromkeys((4, 5, 6), "published"),
        7: "rejected",
    }


def test_of_two_loads_of_customers_the_request_for_the_profiles_decides(database: Database, files: Files) -> None:
    """Also if the other run was requested and published since the other files of the run were staged."""
    write_customer_files(files)
    files.write("labels.csv", "idx,label\n1,1\n2,1\n")
    later, earlier = Run(database, CUSTOMERS), Run(database, CUSTOMERS)
    later.run("stage_labels", "stage_customer_activity")
    files.write("labels.csv", "idx,label\n1,0\n2,0\n")
    earlier.run()
    assert database.run("select distinct label from labels") == [(0,)]
    later.run("stage_customer_profiles", "check_customers", "compare_customers", "publish_customers")
    assert database.run("select distinct label from labels") == [(1,)]
    assert statuses(database) == {
        **dict.fromkeys(later.loads.values(), "published"),
        **dict.fromkeys(earlier.loads.values(), "superseded"),
    }


@pytest.fixture
def months(files: Files) -> Files:
    files.write("stores.csv", "idx,location\n1,Porto\n")
    for month in ("2024-01-01", MONTH, "2024-03-01"):
        files.write(f"sales/{month}/sales.csv", HEADER + f"1,5,{month},1\n")
    return files


def test_a_month_keeps_the_stores_of_its_run_until_it_is_published(database: Database, months: Files) -> None:
    months.write("stores.csv", "idx,location\n1,Porto\n2,Faro\n")
    months.write("sales/2024-01-01/sales.csv", HEADER + "1,5,2024-01-01,1\n2,7,2024-01-02,2\n")
    slow = Run(database, SALES_DAG, "2024-01-01")
    slow.run("stage_sales", "stage_stores")
    months.write("stores.csv", "idx,location\n1,Lisboa\n")
    load_month(database, MONTH)
    load_month(database, "2024-03-01")
    # A newer stores.csv without store 2 is published; the rows of the older one are needed still.
    assert statuses(database)[2] == "superseded"
    assert staged(database) == {"sales_1", "stores_2", "stores_6"}
    slow.run("check_month", "publish_month")
    assert database.run("select store_idx, location, value from monthly_sales where sale_month = '2024-01-01'") == [
        (1, "Lisboa", 5),
        (2, "Faro", 7),
    ]
    assert database.run("select idx, location from stores order by idx") == [(1, "Lisboa"), (2, "Faro")]
    assert staged(database) == {"stores_6"}


def test_a_session_that_reads_superseded_rows_does_not_stop_later_loads(database: Database, months: Files) -> None:
    slow = Run(database, SALES_DAG, MONTH)
    slow.run("stage_sales", "stage_stores")
    with database.connect("pipeline") as checking, checking.transaction():
        checking.execute("select pipeline.open_staged(2, 'staged_stores')")
        load_month(database, MONTH)
        load_month(database, "2024-01-01")
        assert statuses(database)[2] == "superseded"
        assert staged(database) == {"stores_2", "stores_6"}
        assert checking.execute("select idx from staged_stores").fetchall() == [(1,)]
        checking.execute("drop view staged_stores")
    load_month(database, MONTH)
    assert staged(database) == {"stores_8"}


def test_each_file_has_at_most_one_published_load(database: Database, february: Files) -> None:
    load_month(database, MONTH)
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.run("""
            insert into pipeline.loads (file_id, dag_id, run_id, source_url, status, staged_table)
            select file_id, 'x', 'x', 'x', 'published', 'x' from pipeline.loads where load_id = 1
        """)


def test_the_loads_of_this_test_execute_every_function(database: Database, february: Files) -> None:
    """PL/pgSQL finds a wrong name or type only when it executes a function; plpgsql_check finds it before."""
    database.run(f"alter database {database.name} set track_functions = 'pl'")
    load_month(database, MONTH)
    february.write(SALES, HEADER + "1,5,2024-02-03,9\n")
    with pytest.raises(psycopg.errors.CheckViolation):
        load_month(database, MONTH)
    february.write("stores.csv", "no,header\n")
    with pytest.raises(FileRejected):
        load_month(database, MONTH)
    write_customer_files(february)
    load_customers(database)
    build_feature_store(database)
    database.run("select pipeline.is_running(0)")
    # A session writes its statistics when it ends.
    wait_until(
        lambda: (
            database.run("""
            select proname
            from pg_proc
            inner join pg_language on prolang = pg_language.oid and lanname = 'plpgsql'
            where
                pronamespace = 'pipeline'::regnamespace
                and pg_proc.oid not in (select funcid from pg_stat_user_functions)
                -- Those of training sets and of maintenance have tests of their own.
                and proname !~ '^(training|measure_training|record_training|find_training|analyze|compare|retire)_'
                and proname <> 'features_of_pairs'
        """)
            == []
        )
    )


def test_plpgsql_check_finds_no_error(database: Database) -> None:
    if not database.run("select name from pg_available_extensions where name = 'plpgsql_check'"):
        pytest.skip("the server has no plpgsql_check")
    database.run("create extension plpgsql_check")
    found = database.run("""
        select proname, message
        from pg_proc
        inner join pg_language on prolang = pg_language.oid and lanname = 'plpgsql'
        cross join lateral plpgsql_check_function_tb(pg_proc.oid, fatal_errors := false) as found
        where pronamespace = 'pipeline'::regnamespace and level = 'error'
    """)
    assert found == []


def test_the_log_says_how_a_changed_file_differs(
    database: Database, february: Files, run_dag: RunDag, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "success"
        assert "has changed" not in capsys.readouterr().out
    february.write(SALES, ONE_SALE)
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "success"
    log = capsys.readouterr().out
    assert (
        f"{SALES} has changed since load 3: rows 2 -> 1, total 10.30 -> 5, "
        f"SHA-256 {sha256(TWO_SALES)} -> {sha256(ONE_SALE)}"
    ) in log


def test_an_empty_month_loads_and_says_so(
    database: Database,
    february: Files,
    run_dag: RunDag,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    load_month(database, MONTH)
    february.write(SALES, HEADER)
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "success"
    assert "has a header and no rows: it is loaded as empty" in caplog.text
    log = capsys.readouterr().out
    assert "monthly_sales of 2024-02-01: 0 stores, total 0, of 0 sales" in log
    assert database.run("select count(*) from sales") == [(0,)]


def test_data_freshness_shows_version_last_day_and_rows_of_each_table(database: Database, february: Files) -> None:
    february.write("sales/2024-01-01/sales.csv", HEADER + "1,1,2024-01-31,1\n")
    write_customer_files(february)
    load_month(database, MONTH)
    load_month(database, "2024-01-01")  # an older month, later
    load_customers(database)
    build_feature_store(database)
    found = {
        table: (version, up_to, rows)
        for table, version, up_to, rows in database.run(
            "select table_name, file_version, up_to, row_count from data_freshness", "ds_user"
        )
    }
    file = {name: sha256((february.folder / f"{name}.csv").read_text()) for name in ("customer_profiles", "labels")}
    activity = sha256((february.folder / "customer_activity.csv").read_text())
    assert found == {
        "sales": (sha256(TWO_SALES), date(2024, 2, 27), 3),
        "monthly_sales": (sha256(TWO_SALES), date(2024, 2, 27), 2),
        "stores": (sha256("idx,location\n1,Porto\n"), None, 1),
        "customer_profiles": (file["customer_profiles"], None, 2),
        "customer_activity": (activity, date(2020, 2, 2), 2),
        "labels": (file["labels"], None, 2),
        "feature_history": (f"{file['customer_profiles']} {activity} {file['labels']}", date(2020, 2, 2), 2),
        "feature_store": (f"{file['customer_profiles']} {activity} {file['labels']}", date(2020, 2, 2), 1),
    }
    [(oldest,)] = database.run("select min(loaded_at) from data_freshness")
    assert datetime.now(UTC) - oldest < timedelta(minutes=1)


def test_every_session_of_a_task_has_its_limits_and_its_name(
    database: Database, february: Files, run_dag: RunDag
) -> None:
    write_customer_files(february)
    # A trigger notes what holds in each session that writes.
    database.run("create table partitions.seen (task text, name text, setting text)")
    database.run("""
        create function public.note() returns trigger language plpgsql security definer as $$
        begin
            insert into partitions.seen
            select current_setting('application_name'), name, current_setting(name) from pg_settings;
            return null;
        end
        $$
    """)
    for table in ("pipeline.loads", "public.feature_store"):
        database.run(f"create trigger note after insert or update on {table} execute function public.note()")
    for dag in ("sales_load_and_aggregation", "customer_data_load", "feature_store"):
        assert run_dag(dag, month_after("2024-02") if dag.startswith("sales") else None) == "success"

    tasks = {task for (task,) in database.run("select distinct task from partitions.seen")}
    assert tasks == {
        # The tasks for approval write nothing if nobody is asked.
        *(f"{SALES_DAG}.{step}_month" for step in ("check", "compare", "publish")),
        *(f"{CUSTOMERS}.{step}_customers" for step in ("check", "compare", "publish")),
        "feature_store.refresh_feature_store",
        # A staging task names its session when the ledger has given it a number.
        *(f"load {number}" for number in range(1, 6)),
        "",
    }
    expected = {
        "statement_timeout": "30min",
        "lock_timeout": "2min",
        "idle_in_transaction_session_timeout": "5min",
        "client_connection_check_interval": "5s",
        "tcp_keepalives_idle": "60",
        "DateStyle": "ISO, YMD",
    }
    names = ", ".join(f"'{name}'" for name in expected)
    found = database.run(f"select distinct name, setting from partitions.seen where name in ({names})")
    assert sorted(found) == sorted(expected.items())
