"""Sessions of ds_user beside loads: some that read all the time, and some that keep a transaction open."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from conftest import Database
from support.breakpoints import WAIT_SECONDS


@contextmanager
def reading(database: Database, *queries: str) -> Iterator[list[set[tuple[Any, ...]]]]:
    """Run each query repeatedly as ds_user, in a session of its own, while the block runs.

    A reader that would wait for a lock for more than a millisecond is refused, and the test fails.

    Yields:
        For each query the different rows that it returned. There is an answer from before the block, and at the end
        one from after it.
    """
    answers: list[set[tuple[Any, ...]]] = [set() for _ in queries]
    finished = threading.Event()
    deadline = time.monotonic() + 3 * WAIT_SECONDS

    def read(connection: psycopg.Connection[Any], query: str, found: set[tuple[Any, ...]]) -> None:
        while not finished.wait(0.002):
            found.update(connection.execute(query).fetchall())
            assert time.monotonic() < deadline, "the block has not ended"

    with ExitStack() as stack, ThreadPoolExecutor(len(queries)) as pool:
        connections = [stack.enter_context(database.connect("ds_user")) for _ in queries]
        for connection, query, found in zip(connections, queries, answers, strict=True):
            connection.execute("set lock_timeout = '1ms'")
            found.update(connection.execute(query).fetchall())
        readers = [pool.submit(read, *each) for each in zip(connections, queries, answers, strict=True)]
        try:
            yield answers
        finally:
            finished.set()
        all_results(readers)
        for connection, query, found in zip(connections, queries, answers, strict=True):
            found.update(connection.execute(query).fetchall())


def all_results(running: list[Future[Any]]) -> None:
    """Wait for all; the first error is raised."""
    for each in running:
        each.result(WAIT_SECONDS)


def idle_reader(
    database: Database, stack: ExitStack, *tables: str, repeatable: bool = False
) -> psycopg.Connection[Any]:
    """A session of ds_user that has read tables and stays idle in its transaction until the stack ends."""
    reader = stack.enter_context(database.connect("ds_user"))
    if repeatable:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    stack.enter_context(reader.transaction())
    for table in tables:
        reader.execute(f"select count(*) from {table}")
    return reader
