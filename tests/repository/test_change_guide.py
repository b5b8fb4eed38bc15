"""docs/change_something.md, step by step as it is written, on a running system."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import ROOT, head
from support import csv_text
from support.documents import Block, commands, on_the_system
from support.steps import CUSTOMERS
from support.system import FaultySystem, delete_run, end_of, rows, trigger, wait_for

from embedded.tree import copy_tree

PAGE = ROOT / "docs/change_something.md"
CUSTOMER_FILES = ("customer_profiles.csv", "customer_activity.csv", "labels.csv")

# A block, and the file that the line above names as its place.
STEP = re.compile(r"(?:`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.S | re.M)


def steps() -> Iterator[tuple[str, str, str]]:
    """The page's blocks with their places; its revision gets the next free number."""
    text = PAGE.read_text().replace("0113", f"{int(head()) + 1:04}")
    text = text.replace('down_revision = "0112"', f'down_revision = "{head()}"')
    yield from STEP.findall(text)


@pytest.fixture
def changed(system: FaultySystem) -> Iterator[FaultySystem]:
    """The running system; what the page changes in its files, its database and its bucket is changed back."""
    served = {name: (system.bucket_folder / name).read_bytes() for name in CUSTOMER_FILES}
    yield system
    for name, content in served.items():
        (system.bucket_folder / name).write_bytes(content)
    on_the_system(f".venv/bin/alembic downgrade {head()}", system)
    for file in (system.folder / "alembic/versions").glob("*_attr_d.*"):
        file.unlink()
    copy_tree(system.folder)
    assert load_customers(system) == "published"


def test_a_column_is_added_from_the_file_to_the_feature_store_as_the_page_says(changed: FaultySystem) -> None:
    system = changed
    features = "select attr_d from feature_store where attr_d is not null"
    before = rows(system, "select * from customer_profiles")
    profiles = system.bucket_folder / "customer_profiles.csv"
    served = profiles.read_text()
    profiles.write_text(f"{csv_text.HEADERS['customer_profiles']},attr_d\n1,1,A,x,7\n")
    assert 'has "attr_d", which the table does not have' in load_customers(system)
    profiles.write_text(served)

    triggered = False
    for place, language, text in steps():
        if language in ("python", "sql"):
            (system.folder / place).write_text(text)
        elif language == "diff":
            apply(system, text)
        for command in commands(Block(PAGE.name, language, text)) if language == "sh" else []:
            if command.startswith("psql") and not triggered:
                assert 'lacks "attr_d"' in load_customers(system)
                assert rows(system, "select idx, attr_a, attr_b, attr_c from customer_profiles") == before
                lint(system)
                serve_samples(system)
                assert load_customers(system) == "published"
                triggered = True
                wait_for(lambda: rows(system, features))
            on_the_system(command, system)
            if command == "make docs":
                assert (system.folder / "docs/data_dictionary.md").read_text().count("`attr_d`") >= 2
            if command == "make up":
                assert rows(system, "select version_num from migrations.alembic_version") > [(head(),)]
    assert triggered
    assert rows(system, "select version_num from migrations.alembic_version") == [(head(),)]


def apply(system: FaultySystem, diff: str) -> None:
    environment = {**system.environment, "GIT_CEILING_DIRECTORIES": str(system.folder.parent)}
    command = ["/usr/bin/env", "git", "apply", "-"]
    done = subprocess.run(
        command, cwd=system.folder, env=environment, input=diff, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\n{diff}"


def lint(system: FaultySystem) -> None:
    """What `make lint` checks, without the types, and of the SQL what the page changes."""
    sql = [file for folder in ("alembic/versions", "sql") for file in (system.folder / folder).rglob("*.sql")]
    before = {file: ROOT / file.relative_to(system.folder) for file in sql}
    changed = [str(file) for file, old in before.items() if not old.exists() or old.read_text() != file.read_text()]
    assert changed
    for tool in ("ruff check", "ruff format --check", f"sqlfluff lint --disable-progress-bar {' '.join(changed)}"):
        on_the_system(f".venv/bin/python -m {tool}", system)


def serve_samples(system: FaultySystem) -> None:
    """Put the customer files into the bucket that the changed embedded/sample_data.py writes."""
    write = "from pathlib import Path; from embedded.sample_data import write_bucket; write_bucket(Path('samples'), [])"
    subprocess.run([sys.executable, "-c", write], cwd=system.folder, env=system.environment, check=True)
    for name in CUSTOMER_FILES:
        (system.bucket_folder / name).write_bytes((system.folder / "samples" / name).read_bytes())


def load_customers(system: FaultySystem) -> str:
    """Trigger the DAG as a person does in the UI, and wait for its end; how the load of profiles ended, or why not."""
    run = trigger(system, CUSTOMERS)
    if end_of(system.api(), run, CUSTOMERS) == "failed":
        delete_run(system, run, CUSTOMERS)  # `make up` would speak of it
    query = """
        select status, error from pipeline.loads join pipeline.files using (file_id)
        where table_name = 'customer_profiles' order by load_id desc
    """
    [(status, error), *_] = rows(system, query)
    return str(error or status)
