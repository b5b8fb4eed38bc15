"""make status: what it prints of each status of a month, and when it fails."""

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, Database, Files
from psycopg.errors import CheckViolation
from support import csv_text, forked
from support.bucket_files import write_customers, write_month
from support.steps import CUSTOMERS, SALES, Run, build_feature_store, load_customers, load_month

import services.status
from company_data.errors import FileNotYetAvailable, FileRejected
from embedded import status as embedded_status
from embedded.state import RunError

pytestmark = pytest.mark.slow


def status(database: Database, first: str, last: str) -> tuple[int, dict[str, list[str]], str]:
    """Its exit status, the words of each line by the first one, and all that it printed."""
    environment = {
        **os.environ,
        "DATABASE_URL": database.url(driver="postgresql+psycopg2"),
        "SALES_FIRST_MONTH": first,
        "SALES_LAST_MONTH": last,
    }
    done = forked.run("embedded", "status", environment=environment)
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines() if line and line[0] != " "]
    return done.returncode, {words[0]: words[1:] for words in lines}, done.stdout


@pytest.fixture
def stores(database: Database, files: Files) -> Files:
    """A bucket with no month. The customer tables and the feature store are loaded."""
    write_customers(files)
    load_customers(database)
    build_feature_store(database)
    return files


def test_it_prints_every_month_with_the_figures_of_data_freshness(database: Database, stores: Files) -> None:
    for month in ("2023-12", "2024-01", "2024-02"):
        write_month(stores, month, f"1,1000.10,{month}-01,1", f"2,0.20,{month}-09,1")
        load_month(database, f"{month}-01")
    assert status(database, "2023-12", "2024-02")[0] == 0

    # February is loaded again from a bad file, March was never tried, April is rejected, and in May its stores are.
    write_month(stores, "2024-02", "1,many,2024-02-01,1")
    write_month(stores, "2024-04", "1,1,2024-04-01,7")
    with pytest.raises(FileRejected):
        load_month(database, "2024-02-01")
    with pytest.raises(CheckViolation):
        load_month(database, "2024-04-01")
    write_month(stores, "2024-05")
    stores.write("stores.csv", csv_text.stores("1,Porto", "1,Lisboa"))
    with pytest.raises(CheckViolation):
        load_month(database, "2024-05-01")
    # June was rejected; it is staged again, and its run goes no further: the old error does not count. July is being
    # loaded. The process that loaded August was killed.
    write_month(stores, "2024-06", "1,1,2024-06-01,7")
    with pytest.raises(CheckViolation):
        load_month(database, "2024-06-01")
    write_month(stores, "2024-06")
    Run(database, SALES, "2024-06-01").run("stage_sales")
    begin = "select pipeline.begin_load('sales', '{}', 'https://bucket', 'test', 'test')"
    database.run(begin.format("2024-08-01"), "pipeline")
    with database.connect("pipeline") as loading:
        loading.execute(begin.format("2024-07-01"))
        exit_status, line, printed = status(database, "2024-01", "2024-08")
    assert exit_status == 1
    # December is not expected, but it is there.
    shown = {month: line[month][0] for month in line if month[0] == "2"}
    assert list(shown) == ["2023-12", *(f"2024-{number:02}" for number in range(1, 9))]
    states = ["loaded", "loaded", "rejected", "missing", "rejected", "rejected", "loading", "loading", "failed"]
    assert list(shown.values()) == states
    assert line["2024-02"][1:3] == line["2024-01"][1:3] == ["2", "1,000.30"]
    assert line["2024-03"] == ["missing"]
    notes = [text.strip() for text in printed.splitlines() if text.startswith(" ")]
    february, april, may, june, _, august = notes
    assert february.startswith("rejected since ")
    assert '"many"' in february
    assert february.endswith("; the version above is still loaded")
    assert "rows whose store is not in stores.csv: 1" in april
    assert "still loaded" not in april
    assert "stores with more than one location: 1" in may
    assert june.startswith("loading since ")
    assert "The process that loaded the file was killed." in august
    assert "9 months of sales: 1 failed, 2 loaded, 2 loading, 1 missing, 3 rejected; 6 rows" in printed

    for table, shown, rows, up_to, loaded_at, version in database.run("""
        select table_name, status, to_char(row_count, 'FM999,999'), up_to::text,
            to_char(loaded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
            regexp_replace(file_version, '(\\w{12})\\w+', '\\1', 'g')
        from data_freshness
    """):
        assert line[table] == " ".join(filter(None, [shown, rows, up_to, loaded_at, version])).split()
    assert line["sales"][:2] == ["loaded", "6"]


def test_a_late_file_is_waited_for_within_its_week_and_does_not_fail_the_command(
    database: Database, stores: Files
) -> None:
    write_month(stores, "2024-01")
    load_month(database, "2024-01-01")
    now = datetime.now(UTC)
    month = f"{now:%Y-%m}-01"
    with pytest.raises(FileNotYetAvailable):
        Run(database, SALES, month).run()
    exit_status, line, printed = status(database, month[:7], month[:7])
    assert (exit_status, line[month[:7]][0]) == (0, "waiting")
    assert "the server returned 404" in printed
    database.run(f"update pipeline.loads set wait_until = '{now:%Y-%m-%d}' where status = 'waiting'")
    assert database.run("select status from month_status where month_status.file_month > '2024-01-01'") == [("failed",)]


def test_months_that_fail_alike_are_one_line_and_are_left_out_once_they_are_not_due(
    database: Database, stores: Files
) -> None:
    write_month(stores, "2024-01")
    load_month(database, "2024-01-01")
    for month in ("2023-10", "2023-11", "2023-12"):
        write_month(stores, month, f"1,many,{month}-01,1")
        with pytest.raises(FileRejected):
            load_month(database, f"{month}-01")
    exit_status, line, printed = status(database, "2023-10", "2024-01")
    assert (exit_status, line["2023-10"]) == (1, ["to", "2023-12", "rejected"])
    assert printed.count('"many"') == 1
    assert "4 months of sales: 1 loaded, 3 rejected; 1 rows" in printed

    exit_status, line, printed = status(database, "2024-01", "2024-01")
    assert (exit_status, line["2024-01"][0]) == (0, "loaded")
    assert "left out, because not due any more and never loaded: 2023-10 to 2023-12\n" in printed
    assert "1 months of sales: 1 loaded; 1 rows" in printed
    assert '"many"' not in printed


def test_before_a_month_is_due_the_tables_of_months_may_be_empty(database: Database, files: Files) -> None:
    next_year = datetime.now(UTC).year + 1
    assert status(database, f"{next_year}-01", f"{next_year}-12")[0] == 1
    write_customers(files)
    load_customers(database)
    assert status(database, f"{next_year}-01", f"{next_year}-12")[0] == 1
    build_feature_store(database)
    exit_status, line, printed = status(database, f"{next_year}-01", f"{next_year}-12")
    assert (exit_status, line["sales"], line["labels"][0]) == (0, ["missing"], "loaded")
    assert "no month is due yet" in printed


def test_the_address_may_be_any_of_postgresql_and_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"):
        monkeypatch.setenv("DATABASE_URL", database.url(driver=scheme))
        embedded_status.status()
        assert "feature_store" in capsys.readouterr().out
    for url in ("mysql://u:hidden@h/d", "u:hidden@h/d", "host=h password=hidden"):
        monkeypatch.setenv("DATABASE_URL", url)
        with pytest.raises(RunError, match=r"^DATABASE_URL does not begin with postgresql://\. Correct it") as failure:
            embedded_status.status()
        assert "hidden" not in str(failure.value)


def test_a_feature_store_that_was_built_from_older_files_is_stale_until_it_is_built_again(
    database: Database, stores: Files
) -> None:
    write_month(stores, "2024-01")
    load_month(database, "2024-01-01")
    assert status(database, "2024-01", "2024-01")[0] == 0
    # As while the DAG feature_store is paused: the event of this publication starts no run.
    load_customers(database)
    exit_status, line, _ = status(database, "2024-01", "2024-01")
    assert exit_status == 1
    assert {table: line[table][0] for table in ("feature_store", "customer_profiles", "labels")} == {
        "feature_store": "stale",
        "customer_profiles": "loaded",
        "labels": "loaded",
    }
    build_feature_store(database)
    assert status(database, "2024-01", "2024-01")[0] == 0


def test_a_customer_file_that_ended_without_a_publication_fails_the_command_until_it_is_loaded(
    database: Database, stores: Files
) -> None:
    write_month(stores, "2024-01")
    load_month(database, "2024-01-01")

    def shown() -> tuple[int, str, str, str]:
        exit_status, line, printed = status(database, "2024-01", "2024-01")
        [note] = [text.strip() for text in printed.splitlines() if text.startswith("  ")] or [""]
        return exit_status, line["customer_profiles"][0], line["labels"][0], note

    assert shown() == (0, "loaded", "loaded", "")
    write_customers(stores, labels=["1,0", "1,1"])
    with pytest.raises(CheckViolation):
        load_customers(database)
    exit_status, profiles, labels, note = shown()
    assert (exit_status, profiles, labels) == (1, "loaded", "rejected")
    assert "clients with two different labels: 1" in note
    assert note.endswith("; the version above is still loaded")

    # The same file is corrected, and is unusual.
    write_customers(stores, labels=["1,1"])
    run = Run(database, CUSTOMERS)
    run.run("stage_customer_profiles", "stage_customer_activity", "stage_labels", "check_customers")
    assert shown()[1:3] == ("loaded", "loaded")
    load = run.loads["stage_labels"]
    database.run(f"update pipeline.loads set anomalies = 'share of label 1' where load_id = {load}")
    database.run(f"select pipeline.request_approval({load}, now() + interval '1 day')", "pipeline")
    assert shown() == (1, "loaded", "pending_approval", "share of label 1; the version above is still loaded")
    database.run(f"select pipeline.decide_load({load}, true, 'a person')", "pipeline")
    run.run("publish_customers")
    build_feature_store(database)
    assert shown() == (0, "loaded", "loaded", "")


def data_ready(database: Database, hours: str, *pauses: Callable[[], object]) -> int:
    """The exit status of the service data-ready of docker-compose.yml, and what happens while it pauses."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["data-ready"]
    assert (service["entrypoint"], service["command"]) == ("python -m services.status", "--wait 6")
    left = iter(pauses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services.status, "time", SimpleNamespace(sleep=lambda _: next(left)(), monotonic=time.monotonic))
        patch.setattr(sys, "argv", ["services.status", "--wait", hours])
        for name, value in {"FIRST_MONTH": "2024-01", "LAST_MONTH": "2024-01"}.items():
            patch.setenv(f"SALES_{name}", value)
        patch.setenv("DATABASE_URL", database.url("ds_user"))
        ended = services.status.main()
    assert list(left) == []
    return ended


def test_the_service_data_ready_ends_when_every_table_and_every_month_is_loaded(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_ready(database, "0") == 1
    printed = capsys.readouterr().out
    assert "1 months of sales: 1 missing; 0 rows" in printed
    lines = dict(line.split() for line in printed.splitlines() if line.endswith("missing"))
    assert lines["2024-01"] == lines["labels"] == lines["feature_store"] == "missing"

    write_month(files, "2024-01")
    write_customers(files)
    # Before the migrations have run it waits too.
    database.run("alter view public.month_status rename to not_yet")
    pauses = (
        lambda: database.run("alter view public.not_yet rename to month_status"),
        lambda: load_month(database, "2024-01-01"),
        lambda: load_customers(database),
        lambda: build_feature_store(database),
    )
    assert data_ready(database, "6", *pauses) == 0
    assert "1 months of sales: 1 loaded; 1 rows" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "report", "examples"])
def test_what_keeps_a_command_from_reading_the_database_is_an_error_with_its_reason(
    command: str, database: Database
) -> None:
    wrong = database.url(password="wrong", driver="postgresql+psycopg2")
    for settings, reason in (
        ({"DATABASE_URL": wrong}, "password authentication failed"),
        ({"DATABASE_URL": ""}, "nothing runs here. make up starts it; with DATABASE_URL another database is read."),
        ({"DATABASE_URL": wrong, "SALES_LAST_MONTH": "2026-8"}, 'SALES_LAST_MONTH is "2026-8"'),
    ):
        if "SALES_LAST_MONTH" in settings and command != "status":
            continue
        done = forked.run("embedded", command, environment={**os.environ, **settings})
        assert done.returncode == 1
        assert done.stderr.startswith("\nerror: ")
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) < 6
