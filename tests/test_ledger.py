"""What a load leaves written: the ledger, data_freshness, and the words in its log."""

import hashlib
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from conftest import Database, Files, RunDag, month_after
from steps import build_feature_store, load_customers, load_month, stage_file

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
    before = datetime.now(timezone.utc)
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "success"
    with database.connect() as connection:
        cursor = connection.execute("select * from pipeline.file_loads where table_name = 'sales'")
        names = [column.name for column in cursor.description or []]
        [row] = [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
    assert before <= row.pop("started_at") <= row.pop("finished_at") <= row.pop("aggregated_at")
    assert before - timedelta(minutes=1) <= row.pop("last_modified") <= datetime.now(timezone.utc)
    assert row.pop("dag_run").startswith("sales_load_and_aggregation ")
    assert row.pop("load_id") > 0
    assert row == {
        "table_name": "sales",
        "sale_month": date(2024, 2, 1),
        "address": f"{february.bucket.url}/{SALES}",
        "etag": hashlib.md5(TWO_SALES.encode(), usedforsecurity=False).hexdigest(),
        "bytes": len(TWO_SALES),
        "sha256": sha256(TWO_SALES),
        "row_count": 2,
        "last_date": date(2024, 2, 27),
        "total": Decimal("10.30"),
        "outcome": "published",
        "problem": None,
    }


def test_the_row_is_written_in_the_transaction_of_the_rows_it_speaks_of(database: Database, february: Files) -> None:
    sales, stores = (
        stage_file(database, SALES, "sales", MONTH),
        stage_file(database, "stores.csv", "stores", MONTH),
    )
    ledger = f"select xmin::text from pipeline.file_loads where load_id = {sales}"
    # Frozen rows keep the transaction that wrote them.
    assert database.run("select distinct xmin::text from staging.sales") == database.run(ledger)
    assert stores > sales


def test_a_changed_file_is_told_in_the_log_with_rows_and_totals(
    database: Database, february: Files, run_dag: RunDag, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "success"
        assert "has changed" not in capsys.readouterr().out
    february.write(SALES, ONE_SALE)
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "success"
    log = capsys.readouterr().out
    assert f"{SALES} has changed since it was loaded" in log
    assert "rows 2 -> 1, total 10.30 -> 5" in log
    assert f"SHA-256 {sha256(TWO_SALES)} -> {sha256(ONE_SALE)}" in log


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


def test_data_freshness_tells_when_which_version_up_to_when_and_how_many(database: Database, february: Files) -> None:
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
        "feature_store": (f"{file['customer_profiles']} {activity} {file['labels']}", date(2020, 2, 2), 1),
    }
    [(oldest,)] = database.run("select min(loaded_at) from data_freshness")
    assert datetime.now(timezone.utc) - oldest < timedelta(minutes=1)


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
    for table in ("pipeline.file_loads", "public.monthly_sales", "public.feature_store"):
        database.run(f"create trigger note after insert or update on {table} execute function public.note()")
    for dag in ("sales_load_and_aggregation", "customer_data_load", "feature_store"):
        assert run_dag(dag, month_after("2024-02") if dag.startswith("sales") else None) == "success"

    tasks = {task for (task,) in database.run("select distinct task from partitions.seen")}
    assert tasks == {
        "sales_load_and_aggregation.stage_sales",
        "sales_load_and_aggregation.stage_stores",
        "sales_load_and_aggregation.check_sales",
        "sales_load_and_aggregation.publish_sales",
        "sales_load_and_aggregation.aggregate_month",
        "customer_data_load.stage_customer_profiles",
        "customer_data_load.stage_customer_activity",
        "customer_data_load.stage_labels",
        "customer_data_load.check_customer_data",
        "customer_data_load.publish_customer_data",
        "feature_store.replace_feature_store",
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
