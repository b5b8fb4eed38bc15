"""A connection pooler between Airflow and PostgreSQL: no step depends on its session or on what it asks for.

A pooler in transaction mode gives each transaction of a client any connection to the server, and drops the options that
the client connects with. The two extremes of it are tested: each transaction has a new connection, and all transactions
of all tasks have the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from conftest import Database, Files, Rows
from support import steps
from support.faulty_bucket import MisbehavingHandler, misbehaving
from support.steps import CUSTOMERS, SALES, Run, csv_text

pytestmark = pytest.mark.slow

JANUARY, FEBRUARY = MONTHS = ["2024-01-01", "2024-02-01"]

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

        @contextmanager
        def share() -> Iterator[psycopg.Connection[Any]]:
            yield shared

        server = connect if request.param == NEW else share
        monkeypatch.setattr(steps, "connect", lambda _: Client(server))
        yield


def write(files: Files, version: int) -> None:
    """Files of all tables; each month has a value of its own, and all have the version in them."""
    files.write("stores.csv", csv_text("idx,location", [(1, f"Porto {version}"), (2, "Faro")]))
    for number, month in enumerate(MONTHS, 1):
        rows = [(n, 100 * number + version, month, n % 2 + 1) for n in range(4)]
        files.write(f"sales/{month}/sales.csv", csv_text("idx,value,date,store_idx", rows))
    files.write("customer_profiles.csv", f"idx,attr_a,attr_b,attr_c\n1,{version},A,x\n")
    files.write("customer_activity.csv", f"idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,0.5,{version}\n")
    files.write("labels.csv", f"idx,label\n1,{version % 2}\n")


def assert_everything_is_of(database: Database, version: int) -> None:
    january, february = 100 + version, 200 + version
    assert database.run("select idx, location from stores order by 1") == [(1, f"Porto {version}"), (2, "Faro")]
    assert database.run("select date::text, value, count(*) from sales group by 1, 2 order by 1") == [
        (JANUARY, january, 4),
        (FEBRUARY, february, 4),
    ]
    assert database.run("select sale_month::text, store_idx, value from monthly_sales order by 1, 2") == [
        (JANUARY, 1, 2 * january),
        (JANUARY, 2, 2 * january),
        (FEBRUARY, 1, 2 * february),
        (FEBRUARY, 2, 2 * february),
    ]
    assert database.run("select idx, attr_a, attr_b, attr_c from customer_profiles") == [(1, version, "A", "x")]
    assert database.run("select idx, valid_from::text, valid_to, scd_a, scd_b from customer_activity") == [
        (1, "2020-01-01", None, 0.5, version)
    ]
    assert database.run("select idx, label from labels") == [(1, version % 2)]


@pytest.mark.usefixtures("pooler")
def test_runs_whose_transactions_are_mixed_load_the_same_rows(database: Database, files: Files) -> None:
    for version in (1, 2):
        write(files, version)
        runs = [*(Run(database, SALES, month) for month in MONTHS), Run(database, CUSTOMERS)]
        left = [list(run.tasks) for run in runs]
        while any(left):
            for run, tasks in zip(runs, left, strict=True):
                if tasks:
                    run.run(tasks.pop(0))
        assert_everything_is_of(database, version)
        assert database.run("select distinct status from pipeline.loads where status <> 'superseded'") == [
            ("published",)
        ]
    assert database.run("select row_count, total from month_status order by sale_month") == [(4, 408), (4, 808)]


@pytest.mark.usefixtures("pooler")
def test_a_task_that_fails_leaves_nothing_to_the_next_one(database: Database, files: Files) -> None:
    write(files, 1)
    january, february = (Run(database, SALES, month) for month in MONTHS)
    customers = Run(database, CUSTOMERS)
    for run in (january, february, customers):
        run.run(*run.tasks[:3])
    customers.run("check_customers")
    # Fails when its view of the staged rows is there, and in the publication after the first rows were written.
    database.run("create function public.fail() returns trigger language plpgsql as $$ begin raise 'no'; end $$")
    database.run("create trigger fail before insert on monthly_sales for each row execute function public.fail()")
    with pytest.raises(psycopg.errors.RaiseException):
        january.run("publish_month")
    database.run("drop trigger fail on monthly_sales")
    files.write("stores.csv", "idx,location\n")
    wrong = Run(database, SALES, JANUARY)
    wrong.run("stage_sales", "stage_stores")
    with pytest.raises(psycopg.errors.CheckViolation, match="the list of stores has no rows"):
        wrong.run("check_month")
    for run in (january, february):
        run.run("compare_month", "publish_month")
    customers.run("compare_customers", "publish_customers")
    assert_everything_is_of(database, 1)


@pytest.mark.usefixtures("pooler")
@pytest.mark.parametrize("pooler", [NEW], indirect=True)
def test_a_download_that_another_run_overtakes_changes_nothing(database: Database, files: Files) -> None:
    """The pooler may have given the name of the download's session away: then the other run counts it as killed."""
    write(files, 1)
    for month in MONTHS:
        Run(database, SALES, month).run()
    Run(database, CUSTOMERS).run()
    older = Run(database, SALES, JANUARY)

    def overtake(handler: MisbehavingHandler) -> None:
        text = handler.content()
        handler.head(Content_Length=len(text))
        handler.wfile.flush()
        for month in MONTHS:
            write(files, 2)
            Run(database, SALES, month).run()
        Run(database, CUSTOMERS).run()
        handler.wfile.write(text)

    with misbehaving(files.folder) as (bucket, answers, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_BASE_URL", bucket.url)
        patch.setenv("SOURCE_CA_FILE", str(bucket.ca_file))
        answers[f"sales/{JANUARY}/sales.csv"] = [overtake]
        with pytest.raises(psycopg.errors.RaiseException, match="is not loading any more, so it is not staged"):
            older.run("stage_sales")
    assert_everything_is_of(database, 2)
