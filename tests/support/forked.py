"""Commands in processes that are forked from one which has imported their packages: that takes up to half a second."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from embedded.state import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "alembic.config",
        "alembic.runtime.environment",
        "cryptography.fernet",
        "cryptography.x509",
        "psycopg",
        "requests",
        "sqlalchemy.dialects.postgresql.psycopg2",
    ]
)


def run(module: str, *arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a module as `python -m` does in the project's folder; its exit status and what it printed."""
    with tempfile.TemporaryDirectory() as temporary:
        printed = [Path(temporary, name) for name in ("stdout", "stderr")]
        process = SERVER.Process(target=_run, args=(module, arguments, dict(environment), printed))
        process.start()
        process.join()
        stdout, stderr = (file.read_text() for file in printed)
    return subprocess.CompletedProcess([module, *arguments], process.exitcode or 0, stdout, stderr)


def _run(module: str, arguments: tuple[str, ...], environment: dict[str, str], printed: list[Path]) -> None:
    for descriptor, file in enumerate(printed, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ |= environment
    os.chdir(ROOT)
    # Without what pytest adds to it.
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix)))]
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
