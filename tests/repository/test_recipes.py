"""The recipes of docs/, block by block as they are written, on a running system; and how many lines a person writes.

They are add_a_column.md, add_a_monthly_file.md and add_a_feature_file.md.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from conftest import ROOT, head
from support.documents import Block, commands, on_the_system
from support.system import (
    SALES_DAG,
    FaultySystem,
    clear,
    end_of,
    newest_month,
    rows,
    trigger,
    wait_for,
)

from embedded.tree import copy_tree

# A block, and the file that the line above names as its place.
STEP = re.compile(r"(?:`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.S | re.M)

# Lines that a person writes and files that a person changes, at most.
LIMITS = {
    "A feature": (25, 3),
    "A column of a monthly file": (10, 3),
    "Add a monthly file": (120, 5),
    "Add a customer file with features": (70, 5),
}


def steps_of(recipe: str) -> list[tuple[str, str, str]]:
    """The blocks of a page, or of a part of it, with their places."""
    for file in sorted((ROOT / "docs").glob("add_*.md")):
        parts = re.split(r"^##? (.+)$", file.read_text(), flags=re.M)
        if parts[1] == recipe and "```" not in parts[2]:
            parts = ["", recipe, file.read_text()]
        found = dict(zip(parts[1::2], parts[2::2], strict=True))
        if recipe in found:
            return STEP.findall(found[recipe])
    raise AssertionError(recipe)


def test_the_diffs_of_the_recipes_have_as_many_lines_as_their_headers_say() -> None:
    for recipe in LIMITS:
        for _, _, text in (step for step in steps_of(recipe) if step[1] == "diff"):
            hunks = re.findall(r"^@@ -\d+,(\d+) \+\d+,(\d+) @@.*\n((?:[ +-](?!-- a/|\+\+ b/).*\n)+)", text, re.M)
            assert len(hunks) == text.count("\n@@ ")
            for before, after, hunk in hunks:
                kinds = [line[0] for line in hunk.splitlines()]
                assert (len(kinds) - kinds.count("+"), len(kinds) - kinds.count("-")) == (int(before), int(after)), hunk


def lines(text: str) -> list[str]:
    """The lines of a file without blank ones, comments and the docstring."""
    text = re.sub(r'^""".*?"""$', "", text, flags=re.S | re.M)
    return [line for line in text.splitlines() if line.strip() and not line.strip().startswith(("--", "#"))]


@pytest.mark.parametrize("recipe", LIMITS)
def test_a_change_takes_few_lines_in_few_files(recipe: str) -> None:
    written: dict[str, list[str]] = {}
    for place, language, text in steps_of(recipe):
        if language == "diff":
            for part in re.split(r"^--- a/", text, flags=re.M)[1:]:
                changed = [line[1:] for line in part.splitlines()[2:] if line.startswith("+")]
                written[part.partition("\n")[0]] = lines("\n".join(changed))
        elif place:
            written[place] = lines(text)
        for copied, to in re.findall(r"sed .* (sql/\S+) > (sql/\S+)", text) if language == "sh" else []:
            written[to] = lines((ROOT / copied).read_text())
    most_lines, most_files = LIMITS[recipe]
    assert sum(map(len, written.values())) <= most_lines, {file: len(text) for file, text in written.items()}
    assert len(written) <= most_files
    assert max(len(line) for text in written.values() for line in text) <= 120


@pytest.fixture
def changed(system: FaultySystem) -> Iterator[FaultySystem]:
    """The running system; what a page changes in its files, its database and its bucket is changed back."""
    kept = system.folder / "kept_bucket"
    folders = [system.folder / name for name in ("alembic/versions", "sql", "dags")]
    files = {file for folder in folders for file in folder.rglob("*")}
    shutil.copytree(system.bucket_folder, kept)
    yield system
    shutil.rmtree(system.bucket_folder)
    shutil.move(kept, system.bucket_folder)
    on_the_system(f".venv/bin/alembic downgrade {head()}", system)
    for file in {file for folder in folders for file in folder.rglob("*")} - files:
        if file.is_file() and "__pycache__" not in file.parts:
            file.unlink()
    copy_tree(system.folder)


def follow(system: FaultySystem, recipe: str) -> Iterator[str]:
    """Do what the blocks of a recipe say; yields each command before it runs."""
    for place, language, text in steps_of(recipe):
        if language == "diff":
            apply(system, text)
        elif place:
            (system.folder / place).write_text(text)
        for command in commands(Block(recipe, language, text)) if language == "sh" else []:
            yield command
            on_the_system(command.replace(".embedded/bucket", str(system.bucket_folder)), system)


def test_a_column_is_added_from_the_file_to_the_feature_store(changed: FaultySystem) -> None:
    system = changed
    before = rows(system, "select * from customer_profiles order by idx")
    triggered = False
    for command in follow(system, "A feature"):
        if command == "make up":
            lint(system)
        if command.startswith("psql") and not triggered:
            assert end_of(system.api(), trigger(system, "customer_data_load"), "customer_data_load") == "success"
            wait_for(lambda: rows(system, "select idx from feature_store where attr_d is not null"))
            triggered = True
        if "downgrade" in command:
            of_file = {idx: (idx + 1) % 10 for idx, *_ in before}
            found = rows(system, "select idx, attr_d from feature_store order by idx")
            assert found == [(idx, attr_d) for idx, attr_d in rows(system, "select idx, attr_d from customer_profiles")
                             if (idx,) in {(each,) for each, _ in found}]  # fmt: skip
            assert len(found) > len(of_file) / 2
            assert (system.folder / "docs/data_dictionary.md").read_text().count("`attr_d`") >= 3
            copy_tree(system.folder)  # what `git checkout sql` does in a repository
    assert triggered
    assert "`attr_d`" not in (system.folder / "docs/data_dictionary.md").read_text()
    assert rows(system, "select * from customer_profiles order by idx") == before
    assert end_of(system.api(), trigger(system, "customer_data_load"), "customer_data_load") == "success"
    assert rows(system, "select * from customer_profiles order by idx") == before


def test_a_column_of_a_monthly_file_is_added_and_older_files_still_load(changed: FaultySystem) -> None:
    system = changed
    for command in follow(system, "A column of a monthly file"):
        if command == "make up":
            lint(system)
        if command.startswith("psql"):
            assert clear_newest(system) == "success"
            assert rows(system, "select count(channel), count(*) > 0 from sales") == [(0, True)]
            # The newest month must have it now.
            with system.connect() as connection:
                connection.execute("update pipeline.optional_columns set required_from = '2000-01-01'")
            assert clear_newest(system) == "failed"
            [(error,)] = rows(system, "select error from month_status where status = 'rejected'")
            assert 'the header lacks "channel"' in error
            for file in system.bucket_folder.glob("sales/*/sales.csv"):
                header, *others = file.read_text().splitlines()
                file.write_text("\n".join([f"channel,{header}", *(f"web,{line}" for line in others), ""]))
            assert clear_newest(system) == "success"
            assert rows(system, "select channel from sales where channel is not null group by 1") == [("web",)]
    shutil.copytree(system.folder / "kept_bucket", system.bucket_folder, dirs_exist_ok=True)
    assert clear_newest(system) == "success"


def test_a_monthly_file_gets_all_that_the_sales_have(changed: FaultySystem) -> None:
    system = changed
    for command in follow(system, "Add a monthly file"):
        if command == "make up":
            lint(system)
        if "month_status" in command:
            sums = """
                select file_month, (select count(*) from returns where date_trunc('month', date) = file_month), total,
                    (select sum(value) from monthly_returns where return_month = file_month)
                from month_status where table_name = 'returns' and status = 'loaded' order by file_month
            """
            found = rows(system, sums)
            files = sorted(system.bucket_folder.glob("returns/*/returns.csv"))
            assert [(str(month), count) for month, count, *_ in found] == [
                (file.parent.name, file.read_text().count("\n") - 1) for file in files
            ]
            assert all(total == of_stores for *_, total, of_stores in found)
            assert "months of returns: " in system.make("status")
            assert rows(system, "select status from data_freshness where table_name like '%returns'") == [
                ("loaded",), ("loaded",)
            ]  # fmt: skip
            assert rows(system, "select count(*) > 3 from data_statistics where table_name = 'returns'") == [(True,)]
            # A month that is deleted by hand is found, and comes back.
            with system.connect() as connection:
                connection.execute("delete from monthly_returns where return_month = %s", [found[0][0]])
                [(difference,)] = connection.execute(
                    "select pipeline.compare_load(load_id) from pipeline.loads join pipeline.file_rows using (file_id)"
                    " where table_name = 'returns' and file_month = %s",
                    [found[0][0]],
                ).fetchall()
            assert difference.startswith("public.monthly_returns has other sums than the published file")


def test_a_customer_file_becomes_features(changed: FaultySystem) -> None:
    system = changed
    seen = False
    for command in follow(system, "Add a customer file with features"):
        if "upgrade" in command:
            lint(system)
        if command.startswith("psql") and not seen:
            # `make up` has triggered the workflow.
            assert rows(system, "select idx from feature_store where tier is not null")
            seen = True
            expected = "select points, tier from loyalty where loyalty.idx = feature_store.idx"
            assert rows(
                system,
                f"select count(*) from feature_store left join lateral ({expected}) as of_file on true"
                " where (feature_store.points, feature_store.tier) is distinct from (of_file.points, of_file.tier)",
            ) == [(0,)]
        if "downgrade" in command:
            copy_tree(system.folder)
    assert seen


def clear_newest(system: FaultySystem) -> str:
    """Clear the run of the newest month; returns how it ends."""
    run = newest_month(system)
    clear(system, run)
    return end_of(system.api(), run, SALES_DAG)


def apply(system: FaultySystem, diff: str) -> None:
    done = subprocess.run(
        ["/usr/bin/env", "git", "apply", "-"],
        cwd=system.folder,
        env={**system.environment, "GIT_CEILING_DIRECTORIES": str(system.folder.parent)},
        input=diff,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{diff}"


def lint(system: FaultySystem) -> None:
    """What `make lint` checks, without the types, and of the SQL what the page changes."""
    changed = " ".join(changed_sql(system))
    for tool in ("ruff check", "ruff format --check", f"sqlfluff lint --disable-progress-bar {changed}"):
        on_the_system(f".venv/bin/python -m {tool}", system)


def changed_sql(system: FaultySystem) -> Iterator[str]:
    for folder in ("alembic/versions", "sql"):
        for file in (system.folder / folder).rglob("*.sql"):
            name = file.relative_to(system.folder)
            if not (ROOT / name).exists() or (ROOT / name).read_bytes() != file.read_bytes():
                yield str(name)
