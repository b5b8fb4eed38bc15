"""make status: what it prints of months that are well, broken, at work and missing, and when it fails."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, Database, Files, RunDag, month_after
from psycopg.errors import CheckViolation
from steps import load_month, stage_file

HEADER = "idx,value,date,store_idx\n"


def status(database: Database, first: str, last: str) -> tuple[int, dict[str, list[str]], str]:
    """Its exit status, the words of each line by the first one, and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "local", "status"],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": database.url(driver="postgresql+psycopg2"),
            "SALES_FIRST_MONTH": first,
            "SALES_LAST_MONTH": last,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines() if line and line[0] != " "]
    return done.returncode, {words[0]: words[1:] for words in lines}, done.stdout


def write_month(files: Files, month: str, text: str) -> None:
    files.write(f"sales/{month}-01/sales.csv", HEADER + text)


@pytest.fixture
def stores(files: Files) -> Files:
    files.write("stores.csv", "idx,location\n1,Porto\n")
    return files


def test_it_prints_every_month_with_the_figures_of_data_freshness(
    database: Database, stores: Files, run_dag: RunDag
) -> None:
    for month in ("2023-12", "2024-01", "2024-02"):
        write_month(stores, month, f"1,1000.10,{month}-01,1\n2,0.20,{month}-09,1\n")
        load_month(database, f"{month}-01")
    assert status(database, "2023-12", "2024-02")[0] == 0

    # February is loaded anew from a bad file, March was never tried, April is refused, and its stores are in May.
    write_month(stores, "2024-02", "1,many,2024-02-01,1\n")
    write_month(stores, "2024-04", "1,1,2024-04-01,7\n")
    assert run_dag("sales_load_and_aggregation", month_after("2024-02")) == "failed"
    with pytest.raises(CheckViolation):
        load_month(database, "2024-04-01")
    write_month(stores, "2024-05", "1,1,2024-05-01,1\n")
    stores.write("stores.csv", "idx,location\n1,Porto\n1,Lisboa\n")
    with pytest.raises(CheckViolation):
        load_month(database, "2024-05-01")
    # June is staged and goes no further; July is published, and not aggregated.
    stores.write("stores.csv", "idx,location\n1,Porto\n")
    for month in ("2024-06", "2024-07"):
        write_month(stores, month, f"1,1,{month}-01,1\n")
    stage_file(database, "sales/2024-06-01/sales.csv", "sales", "2024-06-01")
    load_month(database, "2024-07-01")
    database.run("update pipeline.file_loads set aggregated_at = null where sale_month = '2024-07-01'")

    exit_status, line, printed = status(database, "2024-01", "2024-07")
    assert exit_status == 1
    # December is not expected any more, but it is there.
    assert {month: line[month][0] for month in line if month[0] == "2"} == {
        "2023-12": "loaded",
        "2024-01": "loaded",
        "2024-02": "failed",
        "2024-03": "missing",
        "2024-04": "failed",
        "2024-05": "failed",
        "2024-06": "loading",
        "2024-07": "loading",
    }
    assert line["2024-02"][1:3] == line["2024-01"][1:3] == ["2", "1,000.30"]
    assert line["2024-03"] == ["missing"]
    notes = [text.strip() for text in printed.splitlines() if text.startswith(" ")]
    february, april, may, june, july = notes
    assert "refused: " in february
    assert '"many"' in february
    assert february.endswith("; the version above is still loaded")
    assert "1 rows are of 1 stores that stores.csv lacks" in april
    assert "still loaded" not in april
    assert "1 stores have more than one location" in may
    assert "was staged at" in june
    assert "was published at" in july
    assert "8 months: 3 failed, 2 loaded, 2 loading, 1 missing; 7 rows" in printed

    for table, rows, up_to, loaded_at, version in database.run("""
        select table_name, to_char(row_count, 'FM999,999'), up_to::text,
            to_char(loaded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), left(file_version, 12)
        from data_freshness
    """):
        assert line[table] == " ".join(filter(None, [rows, up_to, loaded_at, version])).split()
    assert line["sales"][0] == "7"


def test_a_month_that_is_tried_again_and_mended_is_loaded(database: Database, stores: Files) -> None:
    write_month(stores, "2024-01", "1,1,2024-01-01,1\n")
    stores.write("stores.csv", "idx,location\n2,Porto\n")
    with pytest.raises(CheckViolation):
        load_month(database, "2024-01-01")
    assert status(database, "2024-01", "2024-01")[0] == 1
    stores.write("stores.csv", "idx,location\n1,Porto\n")
    # While the new attempt has not come to stores.csv, what was wrong with the old one no longer counts.
    stage_file(database, "sales/2024-01-01/sales.csv", "sales", "2024-01-01")
    assert status(database, "2024-01", "2024-01")[1]["2024-01"] == ["loading"]
    load_month(database, "2024-01-01")
    assert status(database, "2024-01", "2024-01")[0] == 0


def test_nothing_loaded_is_all_missing(database: Database) -> None:
    exit_status, line, printed = status(database, "2024-01", "2024-02")
    assert exit_status == 1
    assert line["2024-01"] == line["2024-02"] == ["missing"]
    assert line["feature_store"] == []
    assert "2 months: 2 missing; 0 rows" in printed


def test_a_database_that_does_not_answer_is_told_as_it_is(database: Database) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local", "status"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database.url(password="wrong", driver="postgresql+psycopg2")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "password authentication failed" in done.stderr
    assert "Traceback" not in done.stderr
