"""The measured side of a measurement. Only the standard library, because every contender's process imports it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

READY = "ready"


def answer(work: Callable[[str], dict[str, object]]) -> None:
    """Say that all imports are done; then do the work for each line of input, and print how long and how big it was.

    Args:
        work: gets the line; what it returns is added to the answer, and goes before what is measured here.
    """
    # Libraries print what they like; only the answers go where the benchmark reads.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    print(READY, file=replies)
    for line in sys.stdin:
        forget_peak()
        before = resident_bytes()
        begin = time.perf_counter()
        details = work(line.rstrip("\n"))
        seconds = time.perf_counter() - begin
        measured = {"seconds": seconds, "before_bytes": before, "peak_bytes": peak_bytes()}
        print(json.dumps({**measured, **details}), file=replies)


def forget_peak(pid: int | str = "self") -> None:
    """Let the peak begin anew, so that it is the work's and not that of the imports before."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process occupies."""
    return _status("VmRSS", pid)


def peak_bytes(pid: int | str = "self") -> int:
    """The most that it has occupied. Not ru_maxrss, which on Linux begins with the size of the parent process."""
    return _status("VmHWM", pid)


def _status(field: str, pid: int | str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if not found:
        raise RuntimeError(f"/proc/{pid}/status has no {field}, and the benchmark measures memory by it.")
    return int(found[1]) * 1024
