"""The months of sales that are loaded, and the HTTPS server that ours are loaded from."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import requests

from bench.processes import ROOT, BenchError
from local.postgres import free_port

HEADER = b"idx,value,date,store_idx\n"
STORES = 200
START_SECONDS = 10


@dataclass(frozen=True)
class Month:
    """What a file of sales holds.

    Attributes:
        rows: number of rows.
        cents: sum of their values, in cents.
    """

    rows: int
    cents: int


def write_sales(file: Path, month: str, rows: int) -> Month:
    """Write a month (YYYY-MM-01) of sales dated at random, as in the sample bucket; the same for the same arguments."""
    numbers = random.Random(f"bench, {rows}")  # noqa: S311 - sample values, not secrets
    file.parent.mkdir(parents=True, exist_ok=True)
    total = 0
    with file.open("wb") as stream:
        stream.write(HEADER)
        for start in range(1, rows + 1, 10_000):
            lines = []
            for idx in range(start, min(start + 10_000, rows + 1)):
                cents = int(numbers.random() * 500_000) + 1
                cents = -cents if numbers.random() < 0.02 else cents
                day, store = int(numbers.random() * 28) + 1, int(numbers.random() * STORES) + 1
                total += cents
                lines.append(f"{idx},{cents / 100:.2f},{month[:8]}{day:02},{store}\n")
            stream.write("".join(lines).encode())
    return Month(rows, total)


def write_stores(folder: Path) -> None:
    """Write stores.csv."""
    lines = "".join(f"{store},city {store}\n" for store in range(1, STORES + 1))
    (folder / "stores.csv").write_text(f"idx,location\n{lines}")


@contextlib.contextmanager
def bucket(folder: Path, certificates: Path) -> Iterator[dict[str, str]]:
    """Serve the folder from a process of its own; gives the environment that makes the loader read from there."""
    port = free_port()
    log = certificates.parent / "bucket.log"
    with log.open("wb") as said:
        process = _start(folder, certificates, port, said)
        try:
            environment = {
                "SOURCE_BASE_URL": f"https://127.0.0.1:{port}",
                "SOURCE_CA_FILE": str(certificates / "ca.pem"),
            }
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    warm(environment, "stores.csv")
                    break
                except (requests.ConnectionError, OSError):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise BenchError(f"the bucket does not answer:\n{log.read_text()[-5_000:]}") from None
                    time.sleep(0.1)
            yield environment
        finally:
            process.terminate()
            process.wait()


def _start(folder: Path, certificates: Path, port: int, said: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "local.bucket", "--directory", str(folder)]
    command += ["--certificate-folder", str(certificates), "--port", str(port)]
    return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)


def warm(environment: dict[str, str], path: str) -> None:
    """Ask for a file's head: the server then knows its MD5, as S3 knows it, before anything is measured."""
    address = f"{environment['SOURCE_BASE_URL']}/{path}"
    requests.head(address, verify=environment["SOURCE_CA_FILE"], timeout=60).raise_for_status()
