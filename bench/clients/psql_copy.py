r"""psql's `\copy` of a file into a table, with psql started and connected anew by the work itself."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.answer import answer, forget_peak, peak_bytes, resident_bytes

DONE = "copied"


def main(psql: str, url: str, file: str, table: str) -> None:
    """Copy the file into the table for each line of input."""
    process = subprocess.Popen(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if not process.stdin or not process.stdout:
        raise RuntimeError("psql has no pipes.")
    commands, replies = process.stdin, process.stdout

    def run(*lines: str) -> None:
        print(*lines, f"\\echo {DONE}", sep="\n", file=commands, flush=True)
        if replies.readline().strip() != DONE:
            raise RuntimeError(f"psql ended with {process.wait()}.")

    def copy(_line: str) -> dict[str, object]:
        forget_peak(process.pid)
        before = resident_bytes(process.pid)
        begin = time.perf_counter()
        # As every other contender, it connects as part of the work.
        run(f"\\connect {url}", f"\\copy {table} from '{file}' (format csv, header true)")
        seconds = time.perf_counter() - begin
        memory = {"before_bytes": before, "peak_bytes": peak_bytes(process.pid)}
        commands.close()
        process.wait()
        return {"seconds": seconds, **memory}

    run()
    answer(copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
