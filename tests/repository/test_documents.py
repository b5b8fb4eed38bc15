"""The documents: every command is run as it is written, or a reason is given here; links, names, settings, language."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import yaml
from conftest import ROOT
from support.documents import BLOCK, blocks, commands, on_the_system
from support.system import FaultySystem, documented_dag

from services.settings import WORKFLOW_SETTINGS

DOCUMENTS = sorted(
    file for folder in (".", "docs", "sql", "bench", "examples", "deploy/*") for file in ROOT.glob(f"{folder}/*.md")
)

# Documents whose commands belong together or need given rows, and the test that runs them.
RECIPES = ("docs/add_a_column.md", "docs/add_a_feature_file.md", "docs/add_a_monthly_file.md")
TESTED_ELSEWHERE = {
    **dict.fromkeys(RECIPES, "tests/repository/test_recipes.py"),
    "docs/another_bucket.md": "tests/operation/test_restored_run.py",
    "docs/tour.md": "tests/ui/test_operator.py",
    "sql/README.md": "tests/sql/test_sql_steps.py",
}

ALL_BLOCKS = [block for file in DOCUMENTS for block in blocks(file)]
# Each with a document that has it.
COMMANDS = {
    command: block.document
    for block in ALL_BLOCKS
    if block.document not in TESTED_ELSEWHERE and block.language == "sh"
    for command in commands(block)
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/usr/bin/env", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def by_ci(command: str, _: FaultySystem) -> None:
    """Left to .ci/run, which is where these tests run: they would start themselves, or take minutes."""
    assert command in (ROOT / ".ci/run").read_text().splitlines()


def by_its_start(command: str, system: FaultySystem) -> None:
    """The tested system was started by it."""
    *settings, make, up = command.split()
    assert (make, up) == ("make", "up")
    assert {setting.partition("=")[0] for setting in settings} <= system.environment.keys()
    assert "months of sales: " in system.output


def by_its_test(command: str, _: FaultySystem) -> None:
    """It needs a system or a month of its own."""
    words = command.split()
    text = f'make("{words[1]}"' if words[0] == "make" else "Take an old month out"
    assert any(text in file.read_text() for file in (ROOT / "tests/operation").glob("*.py"))


def dry(command: str, _: FaultySystem) -> None:
    """Only that the target is there: it takes many minutes, or needs what no test has (a browser, the internet)."""
    assert run("bash", "-c", command.replace("make ", "make --dry-run ", 1)).returncode == 0


def by_compose(command: str, _: FaultySystem) -> None:
    """Left to .ci/compose, where there is an engine; the page has the revision of this version."""
    command = command.replace("downgrade 0112", 'downgrade "$head"')
    walked = [line for file in (ROOT / ".ci/walks").iterdir() for line in file.read_text().splitlines()]
    assert [line for line in walked if f"{line} ".startswith(f"{command} ")]


def on_a_cluster(command: str, _: FaultySystem) -> None:
    """Only that its files are there: it needs a registry or a cluster, which no test has."""
    files = re.findall(r"[=\s]([\w/]+(?:\.\w+)+)(?=\s|$)", command)
    assert files
    assert [name for name in files if not re.fullmatch(r"[\d.]+", name) and not (ROOT / name).exists()] == []


def by_chart(command: str, _: FaultySystem) -> None:
    """Only that the image is the one of the chart's values: .ci/compose builds it."""
    image = yaml.safe_load((ROOT / "deploy/kubernetes/values.yaml").read_text())["images"]["airflow"]
    assert f"{image['repository']}:{image['tag']}" in command.split()


# The first that matches the command's beginning says how it is run.
HOW: dict[str, Callable[[str, FaultySystem], None]] = {
    r"make (test|lint)$": by_ci,
    # The examples themselves are run by tests/repository/test_examples.py.
    r"make (test-fast|bench|examples|test-ui|test-celery|audit|sbom|lock)\b": dry,
    r"(\w+=\S+ )*make up$": by_its_start,
    r"make (backup|restore|rotate|check-source)$|make preview ": by_its_test,
    r"(PGOPTIONS='[^']+' )?psql [\s\S]*retire_load": by_its_test,
    r"make status$": on_the_system,
    r"psql [\s\S]*deploy/": on_a_cluster,
    r"(PGOPTIONS='[^']+' )?psql ": on_the_system,
    r"\.venv/bin/": on_the_system,
    r"docker compose ": by_compose,
    r"docker (build|push) ": by_chart,
    r"(kubectl|helm) ": on_a_cluster,
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split())[:50])
def test_a_command_of_the_documents_runs_as_it_is_written(command: str, system: FaultySystem) -> None:
    how = next((how for beginning, how in HOW.items() if re.match(beginning, command)), None)
    assert how, f"{COMMANDS[command]} has the command `{command}`, and HOW does not say how it is tested."
    how(command, system)


def repeated_keys(node: yaml.Node | None) -> list[str]:
    """Keys that a mapping has twice: Compose rejects them, and Python's reader silently takes the last one."""
    if isinstance(node, yaml.SequenceNode):
        return [key for item in node.value for key in repeated_keys(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key.value for key, _ in node.value]
    return [key for key in keys if keys.count(key) > 1] + [key for _, item in node.value for key in repeated_keys(item)]


def test_the_compose_files_are_whole_and_their_settings_are_those_of_the_example() -> None:
    overlays = sorted(ROOT.glob("deploy/*/docker-compose.yml"))
    text = ""
    used = {"COMPOSE_PROJECT_NAME", *WORKFLOW_SETTINGS}
    for file in (ROOT / "docker-compose.yml", *overlays):
        text += file.read_text()
        assert repeated_keys(yaml.compose(file.read_text())) == [], file
        for service in yaml.safe_load(file.read_text())["services"].values():
            used |= {name for name, value in (service.get("environment") or {}).items() if value is None}
    examples = re.findall(r"^#(\w+)=", (ROOT / ".env.example").read_text(), re.M)
    assert len(examples) == len(set(examples))
    # The page beside an overlay may have settings of its own.
    on_pages = {name for file in overlays for name in re.findall(r"`(\w+)`", file.with_name("README.md").read_text())}
    assert set(examples) <= used | set(re.findall(r"\$\{(\w+):", text)) <= {*examples, *on_pages}
    if run("docker", "compose", "version").returncode == 0:
        for overlay in ([], *(["--file", str(file)] for file in overlays)):
            done = run("docker", "compose", "--file", "docker-compose.yml", *overlay, "config", "--quiet")
            assert done.returncode == 0, done.stderr


def test_every_query_of_the_documents_is_answered(system: FaultySystem) -> None:
    for block in ALL_BLOCKS:
        if block.language == "sql" and block.document not in RECIPES:
            # What is under sql/ speaks of the ledger, which is closed to readers.
            user = "pipeline" if block.document == "sql/README.md" else "ds_user"
            with psycopg.connect(system.address(user)) as connection:
                assert connection.execute(block.text.encode()).description, block


def test_every_block_is_run_or_is_no_command() -> None:
    # tests/repository/test_examples.py runs the examples and connects as the page says, and the tested system has the
    # DAG of another team.
    examples = [documented_dag(), *(file.read_text() for file in (ROOT / "examples").glob("*.py"))]
    for block in ALL_BLOCKS:
        if elsewhere := TESTED_ELSEWHERE.get(block.document):
            assert Path(block.document).name in (ROOT / elsewhere).read_text()
        elif block.language == "python":
            connects = block.document == "docs/data_users.md" and "create_engine" in block.text
            assert connects or any(block.text in example for example in examples), block
        else:
            of_readme = block.document == "README.md" and block.language == "text"  # the sample output
            assert of_readme or block.language in ("sh", "sql", "mermaid"), f"how is {block} tested?"


def test_the_sample_output_in_the_readme_has_the_lines_that_make_up_prints(system: FaultySystem) -> None:
    def first_words(text: str) -> set[str]:
        return {re.sub(r"\d+", "0", line.split()[0]) for line in text.splitlines() if line.strip()}

    [sample] = [block.text for block in ALL_BLOCKS if block.document == "README.md" and block.language == "text"]
    assert first_words(sample) <= first_words(system.output)
    headings = {line for line in sample.splitlines() if line.startswith(("table ", "month "))}
    assert len(headings) == 2
    assert headings <= set(system.output.splitlines())


def test_every_make_target_that_the_documents_name_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for file in DOCUMENTS:
        assert set(re.findall(r"`(?:\w+=\S+ )*make ([\w-]+)", file.read_text())) <= targets, file


def test_every_file_that_the_documents_name_is_there() -> None:
    folders = "alembic|dags|deploy|docs|embedded|examples|plugins|services|sql|tests"
    for file in DOCUMENTS:
        if str(file.relative_to(ROOT)) not in RECIPES:  # it names files that it adds
            for name in re.findall(rf"`((?:{folders})/[\w./]+\.\w+)`", file.read_text()):
                assert (ROOT / name).exists(), f"{file.relative_to(ROOT)}: {name}"


def test_every_setting_is_in_the_page_of_settings() -> None:
    found = set(re.findall(r"^#(\w+)=", (ROOT / ".env.example").read_text(), re.M))
    found |= set(WORKFLOW_SETTINGS)
    for file in ("dags/company_data/settings.py", "alembic/env.py"):
        found |= set(re.findall(r'environ\.get\("(\w+)"', (ROOT / file).read_text()))
    assert len(found) > 20
    assert found <= set(re.findall(r"`(\w+)`", (ROOT / "docs/configuration.md").read_text()))


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 900


# Its sentences are the comments in the migrations.
GENERATED = ROOT / "docs/data_dictionary.md"


def test_lines_of_prose_have_at_most_100_characters() -> None:
    for file in {file for folder in (".", "docs", "deploy/*") for file in ROOT.glob(f"{folder}/*.md")} - {GENERATED}:
        prose = BLOCK.sub("", file.read_text())
        long = [line for line in prose.splitlines() if len(line) > 100 and not line.startswith(("|", "!["))]
        assert long == [], file.relative_to(ROOT)


def test_each_row_of_a_table_has_the_cells_of_its_header() -> None:
    for file in {*DOCUMENTS, GENERATED}:
        for part in BLOCK.sub("", file.read_text()).split("\n\n"):
            lines = part.strip().splitlines()
            if lines and lines[0].startswith("|"):
                cells = {len(re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) for line in lines}
                assert len(cells) == 1, f"{file.relative_to(ROOT)}: {lines[0]}"


# Words for which the field has a usual one.
UNUSUAL = {
    r"anew|again and again": "again, repeatedly",
    r"refus(?:e|ed|es|al|ing)": "reject, rejected",
    r"mend(?:ed|s|ing)?": "fix, correct",
    r"whoever": "a role, a session, a user",
    r"(?:is|are|be) told": "notify, notification",
    r"months? (?:is|are) red|red months?": "a month has failed",
    r"(?:passing|lasting) faults?": "transient, permanent",
    r"no UTF-8": "invalid UTF-8",
    r"locks? that (?:is|are) not given": "lock timeout",
    r"packed": "compressed",
    r"the floor": "the lower bound",
    r"mighty": "privileged",
    r"one \w+ an? (?:client|month|store|file|step)": "one row per client, per month",
}


def test_the_documents_use_the_terms_of_the_field() -> None:
    found = [
        f"{file.relative_to(ROOT)}, line {number}: {match[0]!r} (write: {usual})"
        for file in DOCUMENTS
        for number, line in enumerate(file.read_text().splitlines(), 1)
        for unusual, usual in UNUSUAL.items()
        if (match := re.search(rf"\b(?:{unusual})\b", line, re.I))
    ]
    assert found == []


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for file in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.relative_to(ROOT)}: {target}"
