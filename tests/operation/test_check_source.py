"""make check-source: what it says of a source, and that it writes nothing."""

import os
from datetime import UTC, datetime

import pytest
from conftest import Database, Files
from support import csv_text, forked
from support.bucket_files import write_customers, write_month

pytestmark = pytest.mark.slow

WRITTEN = """
    select count(*), (select count(*) from pipeline.files), (select count(*) from pipeline.loads)
    from pg_class
"""


def check(command: str, **settings: str) -> tuple[int, list[str]]:
    """The exit status of a command and the lines that it printed, with one space between words."""
    months = {"SALES_FIRST_MONTH": "2023-11", "SALES_LAST_MONTH": "2024-04"}
    done = forked.run(*command.split(), environment={**os.environ, **months, **settings})
    assert done.stderr == ""
    return done.returncode, [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_it_says_which_files_there_are_and_whether_their_first_rows_fit(database: Database, files: Files) -> None:
    """As the pipeline, whose login the containers have, and as admin."""
    before = database.run(WRITTEN)
    # More than is read of it, with a wrong row at the end.
    write_customers(files, labels=[*("1,0" for _ in range(100_000)), "1,many"])
    write_month(files, "2024-01")
    write_month(files, "2024-03", "1,1,2024-03-01,1", "1,1,2024-02-01,1")
    status, lines = check("services.check_source", AIRFLOW_CONN_OPERATIONAL_DB=database.url("pipeline"))
    assert status == 1
    *good, wrong = lines
    assert good == [
        "customer_profiles all 1 rows fit",
        "customer_activity all 1 rows fit",
        "labels the header and the first 65,533 rows fit",
        "stores all 1 rows fit",
        "sales the first month is 2024-01, the newest 2024-03",
        "sales 2024-01: all 1 rows fit",
    ]
    assert wrong.startswith(
        'sales would be rejected: sales/2024-03-01/sales.csv, line 3: the row breaks the rule "the date is in the month'
    )

    write_month(files, "2024-03")
    files.write("stores.csv", csv_text.stores("1,Porto").replace("location", "place"))
    (files.folder / "customer_profiles.csv").unlink()
    status, lines = check("embedded check-source", DATABASE_URL=database.url(driver="postgresql+psycopg2"))
    assert status == 1
    assert "the server returned 404" in lines[0]
    assert 'stores.csv, line 1: the header lacks "location"' in lines[3]
    assert lines[-1] == "sales 2024-03: all 1 rows fit"
    assert database.run(WRITTEN) == before


def test_a_source_without_any_month_is_an_error_unless_no_month_is_due_yet(database: Database, files: Files) -> None:
    write_customers(files)
    files.write("stores.csv", csv_text.stores("1,Porto"))
    address = {"AIRFLOW_CONN_OPERATIONAL_DB": database.url("pipeline")}
    status, lines = check("services.check_source", **address)
    assert (status, lines[-1]) == (1, "sales the source has no month from 2023-11 to 2024-04")
    this_month = f"{datetime.now(UTC):%Y-%m}"
    status, lines = check("services.check_source", SALES_FIRST_MONTH=this_month, SALES_LAST_MONTH="", **address)
    assert (status, lines[-1]) == (0, "sales no month is due yet: SALES_FIRST_MONTH has not ended")
