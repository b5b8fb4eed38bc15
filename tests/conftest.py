"""What the tests stand on: a real PostgreSQL migrated to head, a real HTTPS bucket, and real Airflow runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

# Airflow reads its settings when it is first imported, so they stand before any import of it.
ROOT = Path(__file__).resolve().parents[1]
MEMORY, MEMORY_NEEDED = Path("/dev/shm"), 4e9  # noqa: S108 - a file system in memory
# A database per test costs ten times as much where the file system deletes slowly, and Airflow's waits for the disk.
# Programs are started there, which a container may not allow.
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
    os.environ |= {"POSTGRES_FOLDER": str(MEMORY), "TMPDIR": str(MEMORY)}
    tempfile.tempdir = None  # look at TMPDIR again
AIRFLOW_HOME = tempfile.TemporaryDirectory(prefix="company-data-airflow-")
os.environ |= {
    "AIRFLOW_HOME": AIRFLOW_HOME.name,
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests, as long as the signature needs it: 64 bytes or more",
    "SALES_FIRST_MONTH": "2023-11",
    # Each file of a few rows would be odd beside the one before it, and DAG.test waits for a person for ever.
    "ON_ANOMALY": "ignore",
    # Of a few clients, any that goes would be too many.
    "FEATURE_STORE_MAX_LOSS": "100",
    # The tests' own servers are on this machine.
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
}
UNSET = (
    "SOURCE_MAX_BYTES SALES_LAST_MONTH NOTIFY_EMAIL NOTIFY_WEBHOOK_URL SALES_DEADLINE_HOURS FEATURE_HISTORY_KEEP_DAYS"
)
for setting in UNSET.split():
    os.environ.pop(setting, None)

import psycopg  # noqa: E402 - after Airflow's settings
import pytest  # noqa: E402
from alembic.config import Config  # noqa: E402
from alembic.script import ScriptDirectory  # noqa: E402
from support import csv_text, forked  # noqa: E402
from support.faulty_bucket import Answer, misbehaving  # noqa: E402
from support.system import FaultySystem, started_faulty  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

from embedded.bucket import Bucket, serve  # noqa: E402
from embedded.postgres import Cluster  # noqa: E402

Rows = list[tuple[Any, ...]]

# The documented passwords that are not the name of their user.
DEFAULT_PASSWORDS = {"pipeline": "pipeline-laptop"}


def alembic(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the alembic command with an operator's arguments and environment."""
    return forked.run("alembic", *arguments, environment={**os.environ, "DATABASE_URL": url, **environment})


def head() -> str:
    """The newest revision."""
    return str(ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_current_head())


@dataclass(frozen=True)
class Database:
    """One database of the test cluster."""

    cluster: Cluster
    name: str

    def url(self, user: str = "admin", password: str | None = None, driver: str = "postgresql") -> str:
        known = DEFAULT_PASSWORDS.get(user, user)
        address = self.cluster.url(self.name, user, known if password is None else password)
        return address.replace("postgresql", driver, 1)

    def connect(self, user: str = "admin", password: str | None = None) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(user, password), autocommit=True)

    def run(self, statement: str, user: str = "admin") -> Rows:
        """Run one statement over TCP as a user, and return its rows."""
        with self.connect(user) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def client(self, *command: str, text: str = "") -> str:
        """Run a program of PostgreSQL, or a shell that finds them, with this input; returns what it printed."""
        environment = {**os.environ, "PATH": f"{self.cluster.programs}:{os.environ['PATH']}", "PGPASSWORD": "admin"}
        command = ("/usr/bin/env", *command)
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        # The keys of a dump are random.
        return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.M)

    def open_to_readers(self) -> None:
        """Grant the privileges on the features, as the first build that has a row does."""
        self.run("insert into pipeline.features_opened default values")
        for privileges, role in (("select", "ds_user_role"), ("all", "mle_user_role")):
            self.run(f"grant {privileges} on feature_store, feature_history to {role}")

    def alembic(self, *arguments: str, user: str = "admin", **environment: str) -> subprocess.CompletedProcess[str]:
        return alembic(self.url(user), *arguments, **environment)

    def migrate(self, *steps: str, user: str = "admin", **environment: str) -> str:
        """Run steps such as "upgrade head", which succeed; returns their notices."""
        done = [self.alembic(*step.split(), user=user, **environment) for step in steps]
        assert [each.returncode for each in done] == [0] * len(steps), "".join(each.stderr for each in done)
        return "".join(each.stderr for each in done)


def new_database(cluster: Cluster, name: str, template: str = "template0", owner: str = "admin") -> Database:
    cluster.create_database(name, template, owner)
    return Database(cluster, name)


def drop_database(database: Database) -> None:
    database.cluster.drop_database(database.name)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A server of the tests' own, where nothing but a test is at work on a table."""
    with Cluster.temporary({"autovacuum": "off"}) as started:
        make_logins_cheap(started)
        yield started


def make_logins_cheap(cluster: Cluster) -> None:
    """Hash passwords once instead of 4,096 times: the tests log in very often."""
    with cluster.connect("postgres") as connection:
        connection.execute("alter system set scram_iterations = 1")
        connection.execute("select pg_reload_conf()")
        connection.execute("set scram_iterations = 1")
        connection.execute(f"alter role admin password '{cluster.password}'")


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> Iterator[Database]:
    """A database migrated to head, from which each test's own is copied in milliseconds."""
    database = new_database(cluster, "test_migrated")
    database.migrate("upgrade head")
    yield database
    drop_database(database)


@contextmanager
def copied(template: Database, name: str) -> Iterator[Database]:
    """A copy of a database, until the block ends."""
    database = new_database(template.cluster, name, template.name)
    # What CREATE DATABASE does not copy from its template: the privileges of the database itself.
    database.run(f"""
        update pg_database as copy set datacl = original.datacl
        from pg_database as original
        where copy.datname = '{name}' and original.datname = '{template.name}'
    """)
    yield database
    drop_database(database)


@pytest.fixture
def database(template: Database) -> Iterator[Database]:
    """A migrated database of the test's own, which the DAGs are connected to."""
    with copied(template, "test_companydata") as database, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
        yield database


@pytest.fixture
def open_features(database: Database) -> None:
    """The features are open to their readers: the tests insert rows that no build has."""
    database.open_to_readers()


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[Database]:
    database = new_database(cluster, "test_companydata")
    yield database
    drop_database(database)


@pytest.fixture(scope="session")
def managed_cluster() -> Iterator[Cluster]:
    """A server with an admin that is no superuser and has CREATEROLE."""
    with Cluster.temporary() as cluster:
        make_logins_cheap(cluster)
        with cluster.connect("postgres") as connection:
            connection.execute("create role managed login createrole password 'managed'")
        yield cluster


@pytest.fixture
def managed(managed_cluster: Cluster) -> Iterator[Database]:
    """A database of that admin, on a server that has no other roles."""
    database = new_database(managed_cluster, "companydata", owner="managed")
    yield database
    drop_database(database)
    with managed_cluster.connect("postgres") as connection:
        roles = connection.execute("select rolname from pg_roles where oid > 16383 and rolname <> 'managed'").fetchall()
        if roles:
            connection.execute(f"drop role {', '.join(name for (name,) in roles)}")


class Files:
    """The bucket's files, as a test writes them."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.folder = folder
        self.bucket = bucket

    def write(self, path: str, content: str | bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def read_by_the_dags(files: Files) -> Iterator[None]:
    """The DAGs read these files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_BASE_URL", files.bucket.url)
        patch.setenv("SOURCE_CA_FILE", str(files.bucket.ca_file))
        yield


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    """An empty bucket served over HTTPS, which the DAGs read."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    with serve(folder) as bucket, read_by_the_dags(files := Files(folder, bucket)):
        yield files


# The file that tests on faults ask for.
FAULTY_MONTH = "2024-02-01"
FAULTY_PATH = f"sales/{FAULTY_MONTH}/sales.csv"
CONTENT = csv_text.sales(*(f"{n},{n}.25,2024-02-{n:02},1" for n in range(1, 29)))


class FaultyFiles(Files):
    """The bucket's files, with answers to be queued for a path before it behaves again."""

    answers: dict[str, list[Answer]]
    requests: list[str]

    def fetch(self, *answers: Answer, late_until: datetime | None = None) -> bytes:
        """Download the month's file as a task does; the server answers in these ways before it behaves."""
        from company_data import settings, source

        self.answers[FAULTY_PATH] = list(answers)
        with source.open_file(settings.source_url(FAULTY_PATH), late_until) as download:
            return b"".join(download.chunks())


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyFiles]:
    folder = tmp_path / "bucket"
    folder.mkdir()
    with misbehaving(folder) as (bucket, answers, requests), read_by_the_dags(files := FaultyFiles(folder, bucket)):
        files.answers, files.requests = answers, requests
        files.write("stores.csv", csv_text.stores("1,Porto"))
        files.write(FAULTY_PATH, CONTENT)
        yield files


@pytest.fixture(scope="session", autouse=True)
def files_split_once() -> None:
    """Remember the statements of each file: Airflow splits it for each task, which takes longer than the statements."""
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    DbApiHook.split_sql_string = staticmethod(cache(DbApiHook.split_sql_string))  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def airflow() -> None:
    """Airflow with an initialised metadata database."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySystem]:
    """The whole system, started once; whoever changes something in it changes it back."""
    with started_faulty(tmp_path_factory.mktemp("system") / "tree", tmp_path_factory.mktemp("bucket")) as running:
        yield running


# The files with tests on the whole system: two workers start one each.
SYSTEM_FILES = {
    "tests/operation/test_embedded_run.py": "system",
    "tests/repository/test_documents.py": "system",
    "tests/operation/test_restored_run.py": "second system",
    "tests/repository/test_recipes.py": "second system",
}
# Files with runs of Airflow, which one worker begins: the server that Airflow makes for them takes seconds in each.
AIRFLOW_FILES = (
    "tests/loads/test_loads.py",
    "tests/operation/test_maintenance.py",
    "tests/roles/test_foreign_",
    "tests/staging/test_first_month.py",
    "tests/staging/test_source_faults.py",
    "tests/workflows/test_approval.py",
    "tests/workflows/test_notifier.py",
    "tests/workflows/test_schedule.py",
    "tests/workflows/test_workflows.py",
)
# Files whose tests share what takes long to make.
SHARING_FILES = ("tests/repository/test_examples.py",)


class OneSystem(LoadScopeScheduling):  # type: ignore[misc]
    """Gives the workers test by test, and to one of them each all tests on a whole system and all runs of Airflow."""

    # Not by --dist loadgroup: pytest-xdist 3.8 adds the group to an attribute that pytest 9.2 no longer reads.

    def _split_scope(self, nodeid: str) -> str:
        if system := SYSTEM_FILES.get(nodeid.partition("::")[0]):
            return system
        if nodeid.startswith(AIRFLOW_FILES):
            return "airflow"
        return nodeid.partition("::")[0] if nodeid.startswith(SHARING_FILES) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: tests also wait, for a lock, a pause or a server that starts."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneSystem:
    return OneSystem(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests on a whole system come first, because they take longest."""
    on_the_system = [item for item in items if "system" in getattr(item, "fixturenames", ())]
    for item in on_the_system:
        item.add_marker(pytest.mark.slow)
        assert item.nodeid.startswith((*SYSTEM_FILES, "tests/ui/")), f"{item.nodeid}: add its file to SYSTEM_FILES"
    items.sort(key=lambda item: not item.nodeid.startswith(tuple(SYSTEM_FILES)))


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries at once: the pauses themselves are tested apart."""
    from company_data import retries

    monkeypatch.setattr(retries, "PAUSES", dict.fromkeys(retries.PAUSES, (timedelta(), timedelta())))
