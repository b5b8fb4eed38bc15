"""The checks before a commit, in .ci/run and on GitHub are the same."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT

from embedded.server import OLDEST_SERVER


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/usr/bin/env", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def settings(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_checks_before_a_commit_are_the_commands_of_make_lint() -> None:
    lint = run("make", "--dry-run", "lint").stdout.splitlines()
    [repository] = settings(".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == [
        line for line in lint if line.startswith((".venv/bin/", ".ci/"))
    ]


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


def test_vulnerabilities_are_looked_up_weekly() -> None:
    audit = settings(".github/workflows/audit.yml")
    # YAML 1.1 reads the word on as true.
    assert len(audit[True]["schedule"]) == 1
    assert "make audit" in [step.get("run") for step in audit["jobs"]["audit"]["steps"]]


def tracked(*patterns: str) -> dict[str, str]:
    """The text of each file of the project whose path matches."""
    names = run("git", "ls-files", "-co", "--exclude-standard", *patterns).stdout.split()
    assert names
    return {name: (ROOT / name).read_text() for name in names}


def test_every_package_is_locked_by_its_hash_renewed_by_dependabot_and_installed_from_the_lock() -> None:
    lock_all = run("make", "--dry-run", "lock").stdout
    assert all("--generate-hashes" in line for line in lock_all.splitlines() if "uv pip compile" in line)
    updates = [each for each in settings(".github/dependabot.yml")["updates"] if each["package-ecosystem"] == "pip"]
    renewed = [folder for update in updates for folder in update["directories"]]
    installers = "".join(tracked("Dockerfile", "Makefile", "embedded/make_venv.sh").values())
    wanted = tracked("requirements*.txt", "*/requirements*.txt")
    for name, text in wanted.items():
        lock = name.replace(".txt", ".lock")
        locked_text = (ROOT / lock).read_text()
        locked = re.findall(r"^([\w.-]+)(?:\[.*?\])?(==\S+).*\\\n {4}--hash=sha256:[0-9a-f]{64}", locked_text, re.M)
        assert len(locked) == len(re.findall(r"^\w", locked_text, re.M)), lock
        # Without the extras, as in celery[redis], and the version of Python for which a package is.
        pinned = re.findall(r"^([\w.-]+)(?:\[.*?\])?(==[^;\s]+)", text, re.M)
        assert len(pinned) == len(re.findall(r"^\w", text, re.M)) > 0, name
        # Tests, the embedded run and the workers have the packages of the pipeline as well.
        if lock.startswith(("embedded", "deploy")):
            pinned += re.findall(r"^([\w.-]+)(==[^;\s]+)", wanted["requirements.txt"], re.M)
        assert set(pinned) <= set(locked), "run make lock"
        assert re.search(rf" {name} .*-o \S*requirements\S*\.lock", lock_all), name
        assert f"--require-hashes -r {lock}\n" in installers, lock
    assert set(renewed) == {f"/{name.rpartition('/')[0]}" for name in wanted}


INSTALLS = r"pip3? (?:install|download)|uv (?:tool|pip install|run)|\b(?:uvx|pipx|npx)\b|npm (?:install|ci)"


def test_nothing_is_installed_without_hashes() -> None:
    """Debian's packages, which apt verifies, aside, and the advice to a person for a SOCKS proxy."""
    files = tracked("Makefile", "Dockerfile", "*.sh", ".ci/*", ".github/*", ".pre-commit-config.yaml", "*.py")
    del files[str(Path(__file__).relative_to(ROOT))]
    lines = [line for text in files.values() for line in text.replace("\\\n", " ").splitlines()]
    found = [line for line in lines if re.search(INSTALLS, line) and "--require-hashes" not in line]
    assert [line for line in found if "PySocks socksio" not in line] == []


def test_no_image_that_is_pulled_has_a_movable_tag_by_name() -> None:
    texts = tracked("docker-compose.yml", "Dockerfile", "deploy/*.yml", "deploy/*.yaml")
    assert not re.search(r"\blatest\b", "".join(texts.values()))
    images = re.findall(r"^ARG \w+_IMAGE=(.*)", texts["Dockerfile"], re.M)
    for name, text in texts.items():
        if name.endswith("docker-compose.yml"):
            images += re.findall(r"^ *image: (?:\$\{\w+:-)?(.*?)\}?$", text, re.M)
    chart = settings("deploy/kubernetes/values.yaml")["images"]["airflow"]
    images.append(f"{chart['repository']}:{chart['tag']}")
    # Those that are named after the project are built here, and never pulled.
    pulled = {image for image in images if "COMPOSE_PROJECT_NAME" not in image}
    assert len(pulled) == 5
    assert [image for image in pulled if not re.fullmatch(r"[\w./-]+:\d[\w.-]*", image)] == []


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
    done = run(".venv/bin/squawk", "--config", ".squawk.toml", str(migration))
    assert done.returncode == 1
    assert "require-concurrent-index-creation" in done.stdout


def test_a_workflow_with_an_action_of_a_movable_tag_is_rejected_by_lint(tmp_path: Path) -> None:
    workflow = tmp_path / ".github/workflows/ci.yml"
    workflow.parent.mkdir(parents=True)
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    for checkout, code in (("actions/checkout@v6", 14), (None, 0)):
        workflow.write_text(re.sub(r"actions/checkout@\w+", checkout, text) if checkout else text)
        assert run(".venv/bin/zizmor", "--offline", str(workflow)).returncode == code
