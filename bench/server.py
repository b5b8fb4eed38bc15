"""The PostgreSQL and the bucket that everything is measured on, and the processes that are measured."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import requests
from psycopg.rows import dict_row

from bench.answer import READY
from embedded.bucket import serve
from embedded.postgres import Cluster

ROOT = Path(__file__).resolve().parents[1]
OTHERS = "bench_others"  # the database of all contenders but ours; migrated, so that their tables get the same columns
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

Answer = dict[str, Any]
Ask = Callable[[str], Answer]
Rows = list[dict[str, Any]]


class BenchError(RuntimeError):
    """Something that is measured failed or gave a wrong result; the figures would mean nothing."""


@dataclass(frozen=True)
class Server:
    """A durable PostgreSQL server and a bucket."""

    cluster: Cluster
    folder: Path  # of the bucket
    environment: Mapping[str, str]  # makes the loader read from the bucket
    machine: str

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Self]:
        """A server with an empty bucket and the database of the others, removed at the end."""
        with (
            Cluster.temporary(DURABLE) as cluster,
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            serve(Path(folder)) as bucket,
            contextlib.redirect_stderr(io.StringIO()),  # the bucket's log of requests
        ):
            # Older revisions of the loader read the second one.
            authority = dict.fromkeys(("SOURCE_CA_FILE", "REQUESTS_CA_BUNDLE"), str(bucket.ca_file))
            machine = describe(cluster)
            server = cls(cluster, Path(folder), {"SOURCE_BASE_URL": bucket.url, **authority}, machine)
            server.create_database(OTHERS, ROOT)
            yield server

    def url(self, database: str, user: str = "admin", password: str = "admin") -> str:  # noqa: S107 - documented
        """Address of a database."""
        return self.cluster.url(database, user, password)

    def run(self, database: str, *statements: str) -> Rows:
        """Run statements as admin, and return the rows of the last."""
        with psycopg.connect(self.url(database), autocommit=True, row_factory=dict_row) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, checkout: Path) -> None:
        """Create a database, or replace it by a new one, and migrate it to the head of a checkout."""
        create = f"create database {name} template template0 owner admin"
        self.run("postgres", f"drop database if exists {name} with (force)", create)
        call([sys.executable, "-m", "alembic", "upgrade", "head"], checkout, DATABASE_URL=self.cluster.url(name))

    def psql(self, database: str, *commands: str) -> Answer:
        """Run commands with psql. The seconds are those that psql reports, without its start and its connection."""
        program = str(self.cluster.programs / "psql")
        options = [option for command in (r"\timing on", *commands) for option in ("-c", command)]
        output = call([program, "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, self.url(database)])
        return {"seconds": sum(float(time) for time in re.findall(r"^Time: ([\d.]+) ms", output, re.M)) / 1000}

    def copy_command(self, table: str, path: str) -> str:
        """The psql command that copies a file of the bucket into a table."""
        return rf"\copy {table} from '{self.folder / path}' (format csv, header true)"

    def write_csv(self, path: str, query: str) -> str:
        """Write the result of a query to a file of the bucket, unless the file exists; returns the path."""
        file = self.folder / path
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            self.psql(OTHERS, rf"\copy ({' '.join(query.split())}) to '{file}' (format csv, header true)")
            # The bucket then knows the file's MD5, as S3 does.
            address, authority = f"{self.environment['SOURCE_BASE_URL']}/{path}", self.environment["SOURCE_CA_FILE"]
            requests.head(address, verify=authority, timeout=60).raise_for_status()
        return path

    def dags(self, database: str, checkout: Path) -> contextlib.AbstractContextManager[Ask]:
        """A process that runs a checkout's DAGs on a database; see bench/dags.py."""
        url = self.url(database, "pipeline", "pipeline-laptop")
        environment = {**self.environment, "AIRFLOW_CONN_OPERATIONAL_DB": url, "PYTHONPATH": f"{checkout}/dags"}
        return started([sys.executable, "-m", "bench.dags", str(checkout)], environment)

    def measured(self, work: Callable[[], Answer]) -> Answer:
        """Do some work after a checkpoint; returns its answer with its seconds, where it has none, and its WAL."""
        self.run("postgres", "checkpoint")
        position = self.run("postgres", "select pg_current_wal_lsn() as start")[0]["start"]
        cpu, begin = self._cpu_seconds(), time.perf_counter()
        answer = work()
        answer = {"seconds": time.perf_counter() - begin, "cpu_seconds": self._cpu_seconds() - cpu, **answer}
        return answer | self.run("postgres", f"select (pg_current_wal_lsn() - '{position}')::bigint as wal_bytes")[0]

    def _cpu_seconds(self) -> float:
        postmaster = psutil.Process(int((self.cluster.data / "postmaster.pid").read_text().split()[0]))
        while True:
            ended = sum(postmaster.cpu_times()[2:4])
            with contextlib.suppress(psutil.NoSuchProcess):
                living = sum(sum(each.cpu_times()[:2]) for each in [postmaster, *postmaster.children()])
                # A process that ends meanwhile would count twice or not at all.
                if sum(postmaster.cpu_times()[2:4]) == ended:
                    return float(living + ended)


def describe(cluster: Cluster) -> str:
    """The machine and the version of the server."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    with cluster.connect("postgres") as connection:
        postgresql = connection.info.parameter_status("server_version")
    machine = f"{cpu[1] if cpu else 'unknown CPU'}, {os.cpu_count()} cores, PostgreSQL {postgresql}"
    print(f"{machine}, load average {os.getloadavg()[0]:.2f}", flush=True)
    return machine


def call(command: Sequence[str], folder: Path = ROOT, **environment: str) -> str:
    """Run a command and return its output; raises BenchError with the output if it fails."""
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    raise BenchError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Ask]:
    """A process that has done its imports; gives a function that sends it one line and waits for its answer."""
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+") as log:
        process: Any = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=ROOT, env={**os.environ, **environment}
        )

        def read() -> str:
            if line := process.stdout.readline():
                return str(line).rstrip()
            log.seek(0)
            raise BenchError(f"{' '.join(command)} failed ({process.wait()}):\n{log.read()[-5_000:]}")

        def ask(line: str) -> Answer:
            print(line, file=process.stdin, flush=True)
            return dict(json.loads(read()))

        with process:
            while read() != READY:  # imports print, too
                pass
            yield ask
