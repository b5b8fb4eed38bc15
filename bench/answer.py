"""The measured side of a measurement. Only the standard library, because every measured process imports it."""

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
    """Report that all imports are done. Then do the work for each line of input, and print its time and memory.

    Args:
        work: gets the line; what it returns is added to the answer.
    """
    # Libraries print to stdout; only answers go to the pipe that the benchmark reads.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    print(READY, file=replies)
    for line in sys.stdin:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which would be that of the imports
        idle = _memory("VmRSS")
        begin = time.perf_counter()
        details = work(line.rstrip("\n"))
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "memory_bytes": _memory("VmHWM") - idle, **details}), file=replies)


def _memory(field: str) -> int:
    # Not ru_maxrss, which on Linux starts with the size of the parent process.
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise RuntimeError(f"/proc/self/status has no {field}, by which memory is measured.")
    return int(found[1]) * 1024
