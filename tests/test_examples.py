"""The examples, run as ds_user on the sample data, with no library but those that they list."""

import re
import subprocess
from datetime import date
from pathlib import Path

import pytest
from conftest import ROOT, Database, Files
from steps import build_feature_store, load_customers, load_month

from local.sample_data import write_bucket

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
def loaded(database: Database, files: Files) -> Database:
    write_bucket(files.folder, MONTHS)
    load_customers(database)
    build_feature_store(database)
    for month in MONTHS:
        load_month(database, str(month))
    return database


def run_example(python: Path, name: str, database: Database, picture: Path) -> str:
    """What an example prints; its picture is small enough to be shown."""
    url = database.url("ds_user", driver="postgresql+psycopg")
    command = [str(python), str(ROOT / "examples" / name), "--url", url, "--picture", str(picture)]
    done = subprocess.run(command, cwd=picture.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 60_000
    return done.stdout


def test_the_examples_work_as_ds_user(python: Path, loaded: Database, tmp_path: Path) -> None:
    trained, *measures = run_example(python, "train_classifier.py", loaded, tmp_path / "roc.png").splitlines()
    assert trained.startswith("trained on ")
    [majority], [accuracy, auc], [_, pretended] = (
        [float(number) for number in re.findall(r"\d\.\d+", line)] for line in measures
    )
    assert accuracy > majority + 0.05
    assert 0.6 < auc < 0.9
    # What the features of today pretend.
    assert pretended > auc + 0.05

    plotted = run_example(python, "plot_monthly_sales.py", loaded, tmp_path / "sales.png")
    [(total,)] = loaded.run("select sum(value) from sales")
    assert plotted == f"40 locations, 3 months, total {total:,.2f}\n"
