"""The checks before a commit, in .ci/run and on GitHub are the same."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT
from system import lend_packages

from local.tree import copy_tree


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
    assert [hook["entry"] for hook in repository["hooks"]] == [line for line in lint if "-m " in line]


def test_a_commit_that_breaks_the_format_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    copy_tree(folder)
    lend_packages(folder)
    author = "git -c user.name=a -c user.email=a@b commit --quiet --message one"
    for command in ("git init --quiet", "git add --all", author, ".venv/bin/pre-commit install"):
        assert run(folder, *command.split()).returncode == 0

    (folder / "local/tree.py").write_text("import  os\n")
    (folder / "sql/sales/publish_month.sql").write_text("SELECT 1 ;\n")
    rejected = run(folder, *author.split(), "--all")
    assert rejected.returncode != 0
    for tool in ("ruff check", "ruff format", "sqlfluff"):
        assert [line for line in rejected.stderr.splitlines() if line.startswith(tool) and line.endswith("Failed")]

    copy_tree(folder)
    changed = folder / "local/tree.py"
    changed.write_text(changed.read_text() + "\n\n# One more line.\n")
    done = run(folder, *author.split(), "--all")
    assert done.returncode == 0, done.stderr


def test_github_runs_what_ci_runs_on_the_oldest_and_the_newest_postgresql() -> None:
    jobs = settings(".github/workflows/ci.yml")["jobs"]
    assert [row["postgres"] for row in jobs["run"]["strategy"]["matrix"]["include"]] == [15, 18]
    scripts = [[step["run"] for step in job["steps"] if "run" in step][-1] for job in jobs.values()]
    assert scripts == [".ci/run", ".ci/compose"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)
    for job in jobs.values():
        for step in job["steps"]:
            assert "uses" not in step or step["uses"].partition("@")[2].count(".") == 2  # pinned by its whole version
