"""The examples, run as ds_user on the sample data, with no library but those that they list."""

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from conftest import ROOT, Database, Files
from support.documents import blocks
from support.foreign_code import plant_overloads, shadows_ran, watched_logins
from support.steps import build_feature_store, load_customers, load_month

from embedded.sample_data import months_before, write_bucket

pytestmark = pytest.mark.slow

MONTHS = [date(2024, month, 1) for month in (1, 2, 3)]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that `make examples` uses."""
    made = subprocess.run(
        ["/usr/bin/env", "make", ".venv-examples/installed"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / ".venv-examples/bin/python"


@pytest.fixture
def loaded(database: Database, files: Files) -> Iterator[Database]:
    write_bucket(files.folder, MONTHS)
    load_customers(database)
    build_feature_store(database)
    for month in MONTHS:
        load_month(database, str(month))
    plant_overloads(database.url)
    yield database
    assert not shadows_ran(database.url)


def run_example(python: Path, name: str, database: Database, *arguments: str | Path, scheme: str = "postgresql") -> str:
    """What an example prints."""
    url = database.url("ds_user", driver=scheme)
    command = [str(python), str(ROOT / "examples" / name), "--url", url, *map(str, arguments)]
    # Its threads wait for each other by running in circles, which takes the cores from the other tests.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with watched_logins(database.url) as logins:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {path for who, path in logins.paths() if who == "ds_user"} == {"pg_catalog,pg_temp"}
    return done.stdout


def test_the_examples_work_as_ds_user(python: Path, loaded: Database, tmp_path: Path) -> None:
    pictures = [tmp_path / "roc.png", tmp_path / "sales.png"]
    printed = run_example(python, "train_classifier.py", loaded, "--picture", pictures[0])
    trained, *measures = printed.splitlines()
    assert trained.startswith("trained on ")
    [majority], [accuracy, auc], [_, pretended] = (
        [float(number) for number in re.findall(r"\d\.\d+", line)] for line in measures
    )
    assert accuracy > majority + 0.05
    assert 0.6 < auc < 0.9
    # What the features of today pretend.
    assert pretended > auc + 0.05

    plotted = run_example(python, "plot_monthly_sales.py", loaded, "--picture", pictures[1], scheme="postgres")
    [(total,)] = loaded.run("select sum(value) from sales")
    assert plotted == f"40 locations, 3 months, total {total:,.2f}\n"
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 60_000  # so that it can be shown


def test_the_report_is_one_page_with_every_month_and_table(python: Path, loaded: Database, tmp_path: Path) -> None:
    # A month that is unusual, and one that waits for a person because it is.
    for month, values in (
        ("2024-01-01", "anomalies = 'few <rows>', decided_by = 'a person'"),
        ("2024-03-01", "anomalies = 'many rows', status = 'pending_approval', decide_until = now() + interval '1 day'"),
    ):
        loaded.run(
            f"update pipeline.loads set {values} from pipeline.files"
            f" where loads.file_id = files.file_id and file_month = '{month}'"
        )
    page = tmp_path / "report.html"
    assert run_example(python, "report.py", loaded, "--page", page) == "3 months, 8 tables\n"
    text = page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600  # for nobody else on a shared machine
    assert len(text) < 1_000_000
    assert not re.search(r"http://(?!www\.w3\.org/|purl\.org/|creativecommons\.org/)", text)
    for shown in ("pending_approval (1)", "customer_activity", "scd_a", "feature_store", "20.4 %"):
        assert shown in text
    assert cells(text) == [("unusual", "2024-01"), ("loaded", "2024-02"), ("pending_approval", "2024-03")]
    assert "sales, 2024-01, unusual: few &lt;rows&gt; (published by a person)" in text
    assert "sales, 2024-03, pending_approval: many rows" in text
    # Every status that the view can have is shown in a colour of its own.
    [(view,)] = loaded.run("select pg_get_viewdef('pipeline.newest_attempts')")
    statuses = set(re.findall(r"'(\w+)'::text", view)) - {"published", "superseded"}
    assert statuses | {"unusual", "missing"} == set(re.findall(r"^\.(\w+) \{ background: #", text, re.M))


def test_the_report_draws_one_month_one_year_and_ten_years(python: Path, database: Database, tmp_path: Path) -> None:
    sources = {
        "one_month": ("2024-01", "2024-01"),
        "one_year": ("2024-01", "2024-12"),
        "ten_years": ("2024-01", "2033-12"),
    }
    lacking = "2024-05"
    for source, (first, last) in sources.items():
        database.run(f"""
            insert into pipeline.sources (table_name, file_path) values ('{source}', 'YYYY-MM-01');
            insert into pipeline.files (table_name, file_month)
            select '{source}', month from generate_series(date '{first}-01', '{last}-01', interval '1 month') as month
            where month <> '{lacking}-01'
        """)
    database.run("""
        insert into pipeline.loads (file_id, dag_id, run_id, source_url, row_count, status, published_at, staged_table)
        select file_id, 'a', 'b', 'c', 1, 'published', now(), 'd' from pipeline.files
    """)
    page = tmp_path / "report.html"
    run_example(python, "report.py", database, "--page", page)
    drawn = dict(re.findall(r"<h3>(\w+)</h3>(.*?)</table>", page.read_text()))
    assert set(drawn) == set(sources)
    for source, (first, last) in sources.items():
        months = [f"{year}-{month:02}" for year in range(2024, 2034) for month in range(1, 13)]
        expected = [("missing" if month == lacking else "loaded", month) for month in months if first <= month <= last]
        assert cells(drawn[source]) == expected
        assert re.findall(r"<tr><th>(\d+)</th>", drawn[source]) == sorted({month[:4] for _, month in expected})


def test_the_page_of_readers_connects_as_it_says_and_every_query_of_it_has_rows(
    python: Path, loaded: Database, files: Files
) -> None:
    [last] = months_before(datetime.now(UTC).date(), 1)
    write_bucket(files.folder, [last])
    load_month(loaded, str(last))
    page = [block for block in blocks(ROOT / "docs/data_users.md") if block.language in ("python", "sql")]
    [connecting] = [block.text for block in page if "create_engine" in block.text]
    address = "postgresql+psycopg://ds_user:ds_user@localhost:5432/companydata"
    assert address in connecting
    code = connecting.replace(address, loaded.url("ds_user", driver="postgresql+psycopg"))
    done = subprocess.run(
        [str(python), "-c", f"{code}\nprint(len(features))"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("4971\n", "")
    for block in page:
        if block.language == "sql":
            rows = loaded.run(block.text, "ds_user")
            assert rows, block
            # The last column is one that is null if nothing is known; is_same has to be true.
            assert [row for row in rows if row[-1] is None or row[-1] is False] == [], block


def cells(page: str) -> list[tuple[str, str]]:
    """Status and month of each cell of the report's map."""
    return re.findall(r'<td class="(\w+)" title="([\d-]+):', page)
