"""The measured side of a measurement. Only the standard library, because every measured process imports it."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

READY = "ready"


def answer(work: Callable[[str], dict[str, object]]) -> None:
    """Print that all imports are done; then do the work for each line of input, and print its figures as JSON."""
    # Libraries print to stdout; only answers go to the pipe that the benchmark reads.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    print(READY, file=replies)
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which would be that of the imports
        idle, begin = _memory("VmRSS"), time.perf_counter()
        details = work(line.rstrip("\n"))
        figures = {"seconds": time.perf_counter() - begin, "memory_bytes": _memory("VmHWM") - idle}
        print(json.dumps(figures | details), file=replies)


def _memory(field: str) -> int:
    # Not ru_maxrss, which on Linux starts with the size of the parent process.
    [kilobytes] = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024
