"""The checks before a commit, in .ci/run and on GitHub are the same."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from support.system import lend_packages

from embedded.server import OLDEST_SERVER
from embedded.tree import copy_tree

CHECKED = "alembic/versions/0109_training_sets.sql"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # The types take half a minute, and are checked by `make lint` anyway.
    environment = {
        **os.environ,
        "SKIP": "mypy",
        "HOME": str(folder.parent),
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
    }
    for name in [name for name in environment if name.startswith("GIT_") and name != "GIT_CEILING_DIRECTORIES"]:
        del environment[name]
    return subprocess.run(
        ["/usr/bin/env", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def settings(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_checks_before_a_commit_are_the_commands_of_make_lint() -> None:
    lint = run(ROOT, "make", "--dry-run", "lint").stdout.splitlines()
    [repository] = settings(".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == [line for line in lint if line.startswith(".venv/bin/")]


def test_a_commit_that_breaks_the_format_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    copy_tree(folder)
    lend_packages(folder)
    # sqlfluff takes a second for three of these files, and `make lint` checks them all.
    for file in {*folder.glob("alembic/versions/*.sql"), *folder.glob("sql/*/*.sql")} - {folder / CHECKED}:
        file.unlink()
    author = "git -c user.name=a -c user.email=a@b commit --quiet --message one"
    for command in ("git init --quiet", "git add --all", author, ".venv/bin/pre-commit install"):
        assert run(folder, *command.split()).returncode == 0

    (folder / "embedded/tree.py").write_text("import  os\n")
    (folder / CHECKED).write_text("SELECT 1 ;\n")
    rejected = run(folder, *author.split(), "--all")
    assert rejected.returncode != 0
    for tool in ("ruff check", "ruff format", "sqlfluff"):
        assert [line for line in rejected.stderr.splitlines() if line.startswith(tool) and line.endswith("Failed")]

    for name in ("embedded/tree.py", CHECKED):
        shutil.copy(ROOT / name, folder / name)
    changed = folder / "embedded/tree.py"
    changed.write_text(changed.read_text() + "\n\n# One more line.\n")
    done = run(folder, *author.split(), "--all")
    assert done.returncode == 0, done.stderr


def test_github_runs_what_ci_runs_on_the_oldest_and_the_newest_postgresql() -> None:
    jobs = settings(".github/workflows/ci.yml")["jobs"]
    tested = [row["postgres"] for row in jobs["run"]["strategy"]["matrix"]["include"]]
    assert tested == [OLDEST_SERVER, 18]
    assert f"\nOLDEST_SERVER = {OLDEST_SERVER}\n" in (ROOT / "alembic/env.py").read_text()
    assert f'\npg_version = "{OLDEST_SERVER}.0"' in (ROOT / ".squawk.toml").read_text()
    scripts = [[step["run"] for step in job["steps"] if "run" in step][-1] for job in jobs.values()]
    assert scripts == [".ci/run", ".ci/compose"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)


def test_actions_are_pinned_by_their_commit_and_vulnerabilities_are_looked_up_weekly() -> None:
    for workflow in (ROOT / ".github/workflows").glob("*.yml"):
        for use in re.findall(r"uses: (.*)", workflow.read_text()):
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", use), workflow.name
    audit = settings(".github/workflows/audit.yml")
    # YAML 1.1 reads the word on as true.
    assert len(audit[True]["schedule"]) == 1
    assert "make audit" in [step.get("run") for step in audit["jobs"]["audit"]["steps"]]


@pytest.mark.parametrize(
    ("lock", "wanted", "installer", "installed"),
    [
        ("requirements.lock", ["requirements.txt"], "Dockerfile", "requirements.lock"),
        (
            "deploy/celery/requirements.lock",
            ["requirements.txt", "deploy/celery/requirements.txt"],
            "Makefile",
            "deploy/celery/requirements.lock",
        ),
        (
            "embedded/requirements.lock",
            ["requirements.txt", "embedded/requirements.txt"],
            "embedded/make_venv.sh",
            "embedded/requirements.lock",
        ),
        *(
            (f"{folder}/requirements.lock", [f"{folder}/requirements.txt"], "Makefile", f"{folder}/requirements.lock")
            for folder in ("bench", "examples", ".ci/audit", "tests/ui")
        ),
    ],
)
def test_every_package_is_locked_by_its_hash_and_installed_from_the_lock(
    lock: str, wanted: list[str], installer: str, installed: str
) -> None:
    # Without the extras, as in celery[redis].
    def read(name: str) -> str:
        return re.sub(r"^([\w.-]+)\[.*?\]", r"\1", (ROOT / name).read_text(), flags=re.M)

    text = read(lock)
    locked = re.findall(r"^([\w.-]+==\S+).*\\\n {4}--hash=sha256:[0-9a-f]{64}", text, re.M)
    assert len(locked) == len(re.findall(r"^\w", text, re.M))
    for file in wanted:
        pinned = re.findall(r"^\w[^;\n]*", read(file), re.M)  # without the version of Python for which it is
        assert pinned
        assert set(pinned) <= set(locked), "run make lock"
    assert f"--require-hashes -r {installed}\n" in (ROOT / installer).read_text()


def tracked(*patterns: str) -> list[Path]:
    """The files of the project whose paths match."""
    names = run(ROOT, "git", "ls-files", "-co", "--exclude-standard", *patterns).stdout.split()
    assert names
    return [ROOT / name for name in names]


def test_every_file_of_requirements_is_locked_by_make_lock_and_renewed_by_dependabot() -> None:
    lock = run(ROOT, "make", "--dry-run", "lock").stdout
    folders = [
        folder
        for update in settings(".github/dependabot.yml")["updates"]
        if update["package-ecosystem"] == "pip"
        for folder in update["directories"]
    ]
    files = tracked("requirements*.txt", "*/requirements*.txt")
    for file in files:
        name = str(file.relative_to(ROOT))
        assert re.search(rf" {name} .*-o \S*requirements\S*\.lock", lock), name
        assert f"/{'' if file.parent == ROOT else file.parent.relative_to(ROOT)}" in folders, name
    assert len(folders) == len({file.parent for file in files})
    for line in lock.splitlines():
        assert "--generate-hashes" in line or "uv pip compile" not in line


INSTALLS = re.compile(
    r"pip3? install|pip3? download|uv (?:tool|pip install|run)|\b(?:uvx|pipx|npx)\b|npm (?:install|ci)"
)


def test_nothing_is_installed_without_hashes() -> None:
    """Debian's packages, which apt verifies, aside."""
    files = [
        file
        for file in tracked("Makefile", "Dockerfile", "*.sh", ".ci/*", ".github/*", ".pre-commit-config.yaml", "*.py")
        if file != Path(__file__)
    ]
    found = [
        (file.name, line)
        for file in files
        for line in file.read_text().replace("\\\n", " ").splitlines()
        if INSTALLS.search(line) and "--require-hashes" not in line
    ]
    # Advice to a person, for packages that only a SOCKS proxy needs.
    assert [line for name, line in found if "PySocks socksio" not in line] == []


def test_no_image_that_is_pulled_has_a_movable_tag_by_name() -> None:
    texts = {
        str(file.relative_to(ROOT)): file.read_text()
        for file in tracked("docker-compose.yml", "Dockerfile", "deploy/*.yml", "deploy/*.yaml")
    }
    for name, text in texts.items():
        assert not re.search(r"\blatest\b", text), name
    defaults = re.findall(r"^ARG \w+_IMAGE=(.*)", texts["Dockerfile"], re.M)
    for name, text in texts.items():
        if name.endswith("docker-compose.yml"):
            # The one without a variable is built here, and never pulled.
            images = [line for line in re.findall(r"^ *image: (.*)", text, re.M) if line != "company-data"]
            defaults += [re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", image) for image in images]
    chart = settings("deploy/kubernetes/values.yaml")["images"]["airflow"]
    defaults.append(f"{chart['repository']}:{chart['tag']}")
    assert len(defaults) == 5
    for image in defaults:
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", image) or re.fullmatch(r"[\w./-]+:\d[\w.-]*-\w+", image), image


def test_the_image_and_the_workers_have_the_same_versions_as_the_tests() -> None:
    def versions(lock: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", (ROOT / lock).read_text(), re.M))

    tested = versions("embedded/requirements.lock")
    assert versions("requirements.lock").items() <= tested.items()
    shared = {name: version for name, version in versions("deploy/celery/requirements.lock").items() if name in tested}
    assert shared.items() <= tested.items()
    assert "ARG REQUIREMENTS=requirements.lock\n" in (ROOT / "Dockerfile").read_text()


def test_a_migration_that_blocks_sessions_is_rejected_by_lint(tmp_path: Path) -> None:
    migration = tmp_path / "0100_blocks.sql"
    migration.write_text("create index on public.stores (location);\n")
    done = run(ROOT, ".venv/bin/squawk", "--config", ".squawk.toml", str(migration))
    assert done.returncode == 1
    assert "require-concurrent-index-creation" in done.stdout


def test_a_workflow_with_an_action_of_a_movable_tag_is_rejected_by_lint(tmp_path: Path) -> None:
    workflow = tmp_path / ".github/workflows/ci.yml"
    workflow.parent.mkdir(parents=True)
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    for checkout, code in (("actions/checkout@v6", 14), (None, 0)):
        workflow.write_text(re.sub(r"actions/checkout@\w+", checkout, text) if checkout else text)
        assert run(ROOT, ".venv/bin/zizmor", "--offline", str(workflow)).returncode == code
