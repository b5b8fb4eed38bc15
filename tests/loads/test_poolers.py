"""A connection pooler between Airflow and PostgreSQL: no step depends on its session or on what it asks for.

A pooler in transaction mode gives each transaction of a client any connection to the server, and drops the options that
the client connects with. The two extremes of it are tested: each transaction has a new connection, and all transactions
of all tasks have the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import zip_longest
from typing import Any

import psycopg
import pytest
from conftest import Database, FaultyFiles, Files, Rows
from support import csv_text, steps
from support.faulty_bucket import during
from support.steps import CUSTOMERS, SALES, Run
from support.versions import EVERYTHING, FEBRUARY, JANUARY, path_of, seen, write_all

pytestmark = pytest.mark.slow

MONTHS = (JANUARY, FEBRUARY)

# Gives a connection to the server for one transaction.
Server = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]


class Answer:
    """The rows of a statement, also when its connection has gone back."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self.rows = cursor.fetchall() if cursor.description else []

    def fetchall(self) -> Rows:
        return self.rows


class Client:
    """A connection to a pooler in transaction mode, as far as the tasks use one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.in_transaction = ExitStack()
        self.connection: psycopg.Connection[Any] | None = None
        self.handlers: list[Callable[[psycopg.errors.Diagnostic], None]] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        """A transaction that was not ended is rolled back."""
        if self.connection is not None:
            self.execute("rollback")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def add_notice_handler(self, handler: Callable[[psycopg.errors.Diagnostic], None]) -> None:
        self.handlers.append(handler)

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[Any]]:
        with self.server() as connection:
            for handler in self.handlers:
                connection.add_notice_handler(handler)
            try:
                yield connection
            finally:
                for handler in self.handlers:
                    connection.remove_notice_handler(handler)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.connected() as self.connection, self.connection.transaction():
            try:
                yield
            finally:
                self.connection = None

    def execute(self, query: Any, parameters: Any = None) -> Answer:
        command = str(query).rpartition("\n")[2].rstrip(";")
        if command == "start transaction":
            self.connection = self.in_transaction.enter_context(self.connected())
        if self.connection is None:
            with self.connected() as connection:
                return Answer(connection.execute(query, parameters))
        answer = Answer(self.connection.execute(query, parameters))
        if command in ("commit", "rollback"):
            self.connection = None
            self.in_transaction.close()
        return answer


NEW, SHARED = "a new connection for each transaction", "one connection for all"


@pytest.fixture(params=[NEW, SHARED])
def pooler(request: pytest.FixtureRequest, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets every task go through a pooler; the settings of the role are all that its connections have."""

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(database.url("pipeline"), autocommit=True)

    with connect() as shared:
        server: Server = connect if request.param == NEW else lambda: nullcontext(shared)
        monkeypatch.setattr(steps, "connect", lambda _: Client(server))
        yield


def runs_of_everything(database: Database) -> list[Run]:
    return [*(Run(database, SALES, month) for month in MONTHS), Run(database, CUSTOMERS)]


def assert_everything_is_of(database: Database, version: int) -> None:
    assert database.run(EVERYTHING) == seen(dict.fromkeys(MONTHS, version), version)


@pytest.mark.usefixtures("pooler")
def test_runs_whose_transactions_are_mixed_load_their_rows_and_a_task_that_fails_leaves_nothing_to_the_next_one(
    database: Database, files: Files
) -> None:
    write_all(files, 1)
    runs = runs_of_everything(database)
    for tasks in zip_longest(*(run.tasks for run in runs)):
        for run, task in zip(runs, tasks, strict=True):
            if task:
                run.run(task)
    assert_everything_is_of(database, 1)
    assert database.run("select distinct status from pipeline.loads") == [("published",), ("superseded",)]
    assert database.run("select distinct row_count, total from month_status") == [(200, 200)]

    write_all(files, 2)
    january, february, customers = runs = runs_of_everything(database)
    for run in runs:
        run.run(*run.tasks[:3])
    customers.run("check_customers")
    # Fails when its view of the staged rows is there, and in the publication after the first rows were written.
    database.run("create function public.fail() returns trigger language plpgsql as $$ begin raise 'no'; end $$")
    database.run("create trigger fail before insert on monthly_sales for each row execute function public.fail()")
    with pytest.raises(psycopg.errors.RaiseException):
        january.run("publish_month")
    database.run("drop trigger fail on monthly_sales")
    files.write("stores.csv", csv_text.stores())
    wrong = Run(database, SALES, JANUARY)
    wrong.run("stage_sales", "stage_stores")
    with pytest.raises(psycopg.errors.CheckViolation, match="the list of stores has no rows"):
        wrong.run("check_month")
    for run in (january, february):
        run.run("compare_month", "publish_month")
    customers.run("compare_customers", "publish_customers")
    assert_everything_is_of(database, 2)


@pytest.mark.usefixtures("pooler")
@pytest.mark.parametrize("pooler", [NEW], indirect=True)
def test_a_download_that_another_run_overtakes_changes_nothing(database: Database, faulty: FaultyFiles) -> None:
    """The pooler may have given the name of the download's session away: then the other run counts it as killed."""

    def load(version: int) -> None:
        write_all(faulty, version)
        for run in runs_of_everything(database):
            run.run()

    load(1)
    faulty.answers[path_of(JANUARY)] = [during(lambda: load(2))]
    with pytest.raises(psycopg.errors.RaiseException, match="is not loading any more, so it is not staged"):
        Run(database, SALES, JANUARY).run("stage_sales")
    assert_everything_is_of(database, 2)
