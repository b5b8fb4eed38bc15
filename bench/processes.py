"""Starts the processes that are measured, and asks them to work."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.answer import READY

ROOT = Path(__file__).resolve().parents[1]

Answer = dict[str, Any]
Ask = Callable[[str], Answer]


class BenchError(RuntimeError):
    """Something that is measured failed or did the wrong thing; the numbers would mean nothing."""


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Ask]:
    """A process that has done its imports; gives a function that sends it one line and waits for its answer.

    Raises:
        BenchError: the process failed; the message ends with what it wrote.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        commands, replies = process.stdin, process.stdout
        if not commands or not replies:
            raise BenchError(f"{' '.join(command)} has no pipes.")

        def read() -> str:
            line = replies.readline()
            if not line:
                code = process.wait()
                said.seek(0)
                raise BenchError(f"{' '.join(command)} failed ({code}):\n{said.read()[-10_000:]}")
            return line.strip()

        def ask(line: str = "") -> Answer:
            print(line, file=commands, flush=True)
            return dict(json.loads(read()))

        try:
            if (first := read()) != READY:
                raise BenchError(f"{' '.join(command)} said {first!r} in place of {READY!r}.")
            yield ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                commands.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            replies.close()
