"""The life of a load: the ledger, data_freshness, and what the log of its task says."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime
from decimal import Decimal

import psycopg
import pytest
from conftest import Database, FaultyFiles, Files, Rows
from support import csv_text, steps
from support.airflow_runs import run_dag
from support.breakpoints import WAIT_SECONDS, pausing, wait_for
from support.bucket_files import write_customers, write_month
from support.faulty_bucket import before, during
from support.steps import CUSTOMERS, FEATURES, Run, build_feature_store, load_customers, load_month, staged_tables
from support.steps import SALES as SALES_DAG

from company_data.errors import FileRejected
from company_data.settings import CONNECTION_OPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]

MONTH = "2024-02-01"
SALES = f"sales/{MONTH}/sales.csv"
ROWS = ("1,10.10,2024-02-01,1", "2,0.20,2024-02-27,1")
TWO_SALES = csv_text.sales(*ROWS)
STORES = csv_text.stores("1,Porto")
ACTIVITY = ["1,2020-01-01,2020-02-01,1,1", "1,2020-02-02,,1,1"]
CUSTOMER_FILES = (["1,1,A,x", "2,2,B,x"], ACTIVITY, ["1,0", "2,1"])
steps.dag(SALES_DAG)  # Airflow reads DAG files in the main thread alone


@pytest.fixture
def february(files: Files) -> Files:
    write_month(files, "2024-02", *ROWS)
    return files


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def statuses(database: Database) -> dict[int, str]:
    return dict(database.run("select load_id, status from pipeline.loads"))


def test_a_load_leaves_one_published_row_that_says_what_was_loaded(database: Database, february: Files) -> None:
    before = datetime.now(UTC)
    assert run_dag(SALES_DAG, "2024-02") == "success"
    [(row,)] = database.run("""
        select to_jsonb(loads) || jsonb_build_object('table', table_name, 'month', file_month, 'total', total::text)
        from pipeline.loads
        inner join pipeline.files using (file_id)
        where table_name = 'sales'
    """)
    names = ("last_modified", "started_at", "requested_at", "published_at", "updated_at")
    modified, *moments = (datetime.fromisoformat(row.pop(name)) for name in names)
    assert [before, *moments] == sorted([before, *moments])
    assert modified == datetime.fromtimestamp(int((february.folder / SALES).stat().st_mtime), UTC)
    assert row.pop("run_id").startswith("manual__")
    # Files that are loaded have a number each, in the order of their requests.
    assert row.pop("request_number") == 1
    assert row == {
        **{"load_id": 1, "file_id": 1, "dag_id": SALES_DAG, "staged_table": "staging.sales_1", "status": "published"},
        **{"table": "sales", "month": MONTH, "source_url": f"{february.bucket.url}/{SALES}"},
        **{"row_count": 2, "max_date": "2024-02-27", "total": "10.30", "bytes": len(TWO_SALES)},
        "sha256": sha256(TWO_SALES),
        "etag": hashlib.md5(TWO_SALES.encode(), usedforsecurity=False).hexdigest(),
        **dict.fromkeys(
            ("wait_until", "error", "anomalies", "decided_by", "decided_at", "decide_until", "compared_with")
        ),
    }
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.run("""
            insert into pipeline.loads (file_id, dag_id, run_id, source_url, status, staged_table)
            select file_id, 'x', 'x', 'x', 'published', 'x' from pipeline.loads where load_id = 1
        """)


def test_the_attempt_is_in_the_ledger_before_the_file_is_requested_and_its_session_is_named_after_it(
    database: Database, faulty: FaultyFiles
) -> None:
    seen: list[Rows] = []
    state = "select status, requested_at is not null, pipeline.is_running(load_id) from pipeline.loads"
    write_month(faulty, "2024-02", *ROWS)
    faulty.answers[SALES] = [before(lambda: seen.append(database.run(state)))]
    Run(database, SALES_DAG, MONTH).run("stage_sales")
    # The time of the request is committed when the server has begun to answer.
    assert seen == [[("loading", False, True)]]
    # A session that was closed is gone a moment later.
    wait_for(database, state, enough=lambda rows: rows == [("staged", True, False)])
    # Recorded in the transaction of the rows: frozen rows keep the transaction that wrote them.
    assert len(database.run("select xmin::text from pipeline.loads union select xmin::text from staging.sales_1")) == 1


def test_a_rejected_file_stays_staged_until_the_file_is_loaded_again(database: Database, february: Files) -> None:
    february.write("stores.csv", csv_text.stores("2,Faro"))
    with pytest.raises(psycopg.errors.CheckViolation, match=r"staging\.sales_1"):
        load_month(database, MONTH)
    assert statuses(database) == {1: "rejected", 2: "checked"}
    assert database.run("select count(*) from stores") == [(0,)]
    assert staged_tables(database) == ["sales_1", "stores_2"]
    february.write("stores.csv", STORES)
    load_month(database, MONTH)
    assert statuses(database) == {1: "rejected", 2: "superseded", 3: "published", 4: "published"}
    assert staged_tables(database) == []


def test_the_run_of_a_superseded_load_skips_its_task_and_says_why(
    database: Database, faulty: FaultyFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    write_month(faulty, "2024-02", *ROWS)
    # A whole run requests and publishes the month while the download goes on.
    faulty.answers[SALES] = [during(lambda: load_month(database, MONTH))]
    assert run_dag(SALES_DAG, "2024-02") == "success"
    log = capsys.readouterr().out
    assert f"{SALES}: load 1 is superseded, so there is nothing to do." in log
    assert "Skipping task" in log
    assert statuses(database) == {1: "superseded", 2: "published", 3: "published", 4: "staged"}


def test_the_clock_of_the_server_does_not_decide_which_load_is_published(database: Database, february: Files) -> None:
    load_month(database, MONTH)
    # As if the clock had been ahead when everything was loaded so far.
    moments = ("started_at", "requested_at", "published_at", "updated_at")
    later = ", ".join(f"{moment} = {moment} + interval '10 years'" for moment in moments)
    database.run(f"update pipeline.loads set {later}")
    # Nor does it decide between two loads that are both checked.
    runs = [Run(database, SALES_DAG, MONTH) for _ in range(2)]
    for value, run in zip((6, 7), runs, strict=True):
        write_month(february, "2024-02", f"1,{value},2024-02-03,1")
        february.write("stores.csv", csv_text.stores(f"1,Faro {value}"))
        run.run("stage_sales", "stage_stores", "check_month")
    database.run("update pipeline.loads set requested_at = requested_at - interval '20 years' where load_id > 4")
    for run in reversed(runs):
        run.run("publish_month")
    assert database.run("select location, value from monthly_sales") == [("Faro 7", 7)]
    assert database.run("select location from stores") == [("Faro 7",)]


def test_a_new_attempt_of_an_earlier_run_that_is_rejected_does_not_supersede_a_later_run(
    database: Database, files: Files
) -> None:
    write_customers(files, *CUSTOMER_FILES)
    earlier, later = Run(database, CUSTOMERS), Run(database, CUSTOMERS)
    earlier.run()
    later.run("stage_customer_profiles", "stage_customer_activity", "stage_labels")
    files.write("customer_profiles.csv", "no,header\n")
    with pytest.raises(FileRejected):
        earlier.run("stage_customer_profiles")
    later.run("check_customers", "compare_customers", "publish_customers")
    superseded, published = dict.fromkeys((1, 2, 3), "superseded"), dict.fromkeys((4, 5, 6), "published")
    assert statuses(database) == {**superseded, **published, 7: "rejected"}


def test_a_session_that_reads_staged_rows_delays_no_load_and_keeps_them_until_it_ends(
    database: Database, february: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    february.write("sales/2024-01-01/sales.csv", csv_text.sales())
    run = Run(database, SALES_DAG, MONTH)
    run.run("stage_sales", "stage_stores", "check_month")
    monkeypatch.setattr(steps, "CONNECTION_OPTIONS", f"{CONNECTION_OPTIONS} -c lock_timeout=1ms")
    with database.connect() as person, person.transaction():
        person.execute("select from staging.sales_1, staging.stores_2")
        load_month(database, "2024-01-01")
        run.run("publish_month")
        assert staged_tables(database) == ["sales_1", "stores_2"]
    run.run("stage_sales", "stage_stores")
    with database.connect("pipeline") as task:
        task.execute("select pipeline.open_staged(5, 'staged_sales')")
        with task.transaction():
            # Locks the view and not yet its table, as a query does at first.
            task.execute("comment on view staged_sales is ''")
            load_month(database, MONTH)
            assert statuses(database)[5] == "superseded"
            assert task.execute("select count(*) from staged_sales").fetchall() == [(2,)]
    load_month(database, MONTH)
    assert staged_tables(database) == []


def test_an_empty_month_loads_and_the_log_says_so_and_how_it_differs(
    database: Database, february: Files, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert not any("has changed" in report for report in load_month(database, MONTH))
    february.write(SALES, csv_text.sales())
    assert run_dag(SALES_DAG, "2024-02") == "success"
    assert "has a header and no rows: it is loaded as empty" in caplog.text
    log = capsys.readouterr().out
    assert "monthly_sales of 2024-02-01: 0 stores, total 0, of 0 sales" in log
    assert (
        f"{SALES} has changed since load 3: rows 2 -> 0, total 10.30 -> 0, "
        f"SHA-256 {sha256(TWO_SALES)} -> {sha256(csv_text.sales())}"
    ) in log
    assert database.run("select count(*) from sales") == [(0,)]


def test_data_freshness_shows_version_last_day_and_rows_of_each_table(database: Database, february: Files) -> None:
    before = datetime.now(UTC)
    february.write("sales/2024-01-01/sales.csv", csv_text.sales("1,1,2024-01-31,1"))
    write_customers(february, *CUSTOMER_FILES)
    load_month(database, MONTH)
    load_month(database, "2024-01-01")  # an older month, later
    load_customers(database)
    build_feature_store(database)
    found = database.run("select table_name, file_version, up_to, row_count from data_freshness", "ds_user")
    files = ("customer_profiles.csv", "customer_activity.csv", "labels.csv")
    profiles, activity, labels = versions = [sha256((february.folder / file).read_text()) for file in files]
    assert {table: tuple(shown) for table, *shown in found} == {
        "sales": (sha256(TWO_SALES), date(2024, 2, 27), 3),
        "monthly_sales": (sha256(TWO_SALES), date(2024, 2, 27), 2),
        "stores": (sha256(STORES), None, 1),
        "customer_profiles": (profiles, None, 2),
        "customer_activity": (activity, date(2020, 2, 2), 2),
        "labels": (labels, None, 2),
        "feature_history": (" ".join(versions), date(2020, 2, 2), 2),
        "feature_store": (" ".join(versions), date(2020, 2, 2), 1),
    }
    [(oldest,)] = database.run("select min(loaded_at) from data_freshness")
    assert oldest >= before


def test_every_session_of_a_task_has_its_limits_and_its_name(database: Database, february: Files) -> None:
    write_customers(february, *CUSTOMER_FILES)
    # A trigger notes what holds in each session that writes.
    database.run("create table partitions.seen (task text, name text, setting text)")
    settings = "select current_setting('application_name'), name, current_setting(name) from pg_settings"
    database.run(f"""
        create function public.note() returns trigger language plpgsql security definer as $$
        begin insert into partitions.seen {settings}; return null; end $$
    """)
    for table in ("pipeline.loads", "public.feature_store"):
        database.run(f"create trigger note after insert or update on {table} execute function public.note()")
    for dag in (SALES_DAG, CUSTOMERS, FEATURES):
        assert run_dag(dag, "2024-02" if dag == SALES_DAG else None) == "success"

    assert {task for (task,) in database.run("select distinct task from partitions.seen")} == {
        # The tasks for approval write nothing if nobody is asked.
        *(f"{SALES_DAG}.{step}_month" for step in ("check", "compare", "publish")),
        *(f"{CUSTOMERS}.{step}_customers" for step in ("check", "compare", "publish")),
        "feature_store.refresh_feature_store",
        # A staging task names its session when the ledger has given it a number.
        *(f"load {number}" for number in range(1, 6)),
        "",
    }
    expected = {"statement_timeout": "30min", "lock_timeout": "2min", "idle_in_transaction_session_timeout": "5min"}
    expected |= {"client_connection_check_interval": "5s", "tcp_keepalives_idle": "60", "DateStyle": "ISO, YMD"}
    found = database.run(f"select distinct name, setting from partitions.seen where name in {tuple(expected)}")
    assert sorted(found) == sorted(expected.items())


def test_airflow_brings_a_month_to_its_end_through_dropped_connections(
    database: Database, february: Files, no_pauses: None
) -> None:
    points = ("sales requested", "stores staged", "sales checked", "insert public.sales", "before commit")
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        pauses = [stack.enter_context(pausing(database, point)) for point in points]

        def drop() -> None:
            for pause in pauses:
                assert database.run(f"select pg_terminate_backend({pause.wait()})") == [(True,)]
                pause.release()

        dropped = pool.submit(drop)
        assert run_dag(SALES_DAG, "2024-02", retries=9) == "success"
        dropped.result(WAIT_SECONDS)
    assert database.run("select location, value from monthly_sales") == [("Porto", Decimal("10.30"))]
    assert staged_tables(database) == []
