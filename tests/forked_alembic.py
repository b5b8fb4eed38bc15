"""The alembic command in a process forked from one that has imported Alembic: the import takes half a second."""

import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from alembic.config import main

SERVER = multiprocessing.get_context("forkserver")
# What Alembic, env.py and the driver import once they run.
SERVER.set_forkserver_preload([__name__, "alembic.runtime.environment", "sqlalchemy.dialects.postgresql.psycopg2"])


def run(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run alembic with arguments as in a shell; its exit status and what it printed."""
    with tempfile.TemporaryDirectory() as temporary:
        printed = [Path(temporary, name) for name in ("stdout", "stderr")]
        process = SERVER.Process(target=_run, args=(list(arguments), dict(environment), folder, printed))
        process.start()
        process.join()
        stdout, stderr = (file.read_text() for file in printed)
    return subprocess.CompletedProcess(list(arguments), process.exitcode or 0, stdout, stderr)


def _run(arguments: list[str], environment: dict[str, str], folder: Path, printed: list[Path]) -> None:
    for descriptor, file in enumerate(printed, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    main(argv=arguments)
