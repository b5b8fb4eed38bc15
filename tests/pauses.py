"""Named points at which a session of a load waits until the test goes on: no fault depends on the machine's speed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import psycopg
from conftest import Database

WAIT_SECONDS = 60
LOCK_CLASS = 20_240_201

_ON_LOADS = (
    "create constraint trigger pause after insert or update on pipeline.loads {deferred} for each row when ({{}})"
)
_ROW = _ON_LOADS.format(deferred="not deferrable")
_AT_COMMIT = _ON_LOADS.format(deferred="deferrable initially deferred")

# Each point is the beginning of a CREATE TRIGGER or CREATE EVENT TRIGGER.
POINTS = {
    "load begun": _ROW.format("new.outcome = 'loading' and new.requested_at is null"),
    "file requested": _ROW.format("new.outcome = 'loading' and new.requested_at is not null"),
    "load staged": _ROW.format("new.outcome = 'staged'"),
    "load checked": _ROW.format("new.outcome = 'checked'"),
    "load published": _ROW.format("new.outcome = 'published'"),
    "before commit": _AT_COMMIT.format("new.outcome = 'published'"),
    **{
        f"{event} {table}": f"create trigger pause after {event} on {table} for each statement"
        for table in ("public.stores", "public.monthly_sales", "public.feature_store", "staging.clients")
        for event in ("insert", "update", "delete", "truncate")
    },
    "old partition dropped": "create event trigger pause on sql_drop when tag in ('DROP TABLE')",
    "partition attached": "create event trigger pause on ddl_command_end when tag in ('ALTER TABLE')",
}

# The conditions of event triggers, which CREATE EVENT TRIGGER cannot state.
EVENTS = {
    "old partition dropped": "select from pg_event_trigger_dropped_objects() where schema_name = 'partitions'",
    "partition attached": """
        select from pg_event_trigger_ddl_commands()
        where schema_name = 'public' and objid in (select partrelid from pg_partitioned_table)
    """,
}


def fallback_point(partition: str, event: str) -> str:
    """The point after the deletion or insertion of a partition's rows, where the partition is not replaced."""
    name = f"{event} partitions.{partition}"
    POINTS[name] = f"create trigger pause after {event} on partitions.{partition} for each statement"
    return name


@dataclass(frozen=True)
class Pause:
    """A point at which sessions wait.

    Attributes:
        database: the database of the sessions.
        holder: the session that they wait for.
    """

    database: Database
    holder: psycopg.Connection[Any]

    def wait(self, running: Future[Any] | None = None) -> int:
        """Wait until a session has come to the point.

        Args:
            running: what brings the session there; its error is raised if it ends before.

        Returns:
            The process ID of the session.
        """
        rows = wait_for(
            self.database,
            f"select pid from pg_locks where classid = {LOCK_CLASS} and not granted",
            running,
        )
        return int(rows[0][0])

    def release(self) -> None:
        """Let the waiting sessions go on; later ones do not wait."""
        # After a crash of the server the lock is gone with its session.
        with contextlib.suppress(psycopg.OperationalError):
            self.holder.execute("select pg_advisory_unlock_all()")


@contextlib.contextmanager
def pausing(database: Database, point: str) -> Iterator[Pause]:
    """Let sessions wait at a point, until they are released or the block ends."""
    kind = "event_trigger" if point in EVENTS else "trigger"
    wait = f"perform pg_advisory_xact_lock_shared({LOCK_CLASS}, 0);"
    body = f"if exists ({EVENTS[point]}) then {wait} end if;" if point in EVENTS else f"{wait} return null;"
    with database.connect() as holder:
        # Without lock_timeout: where a load sets a short one, the wait at the point does not count.
        holder.execute(f"set lock_timeout = '{WAIT_SECONDS}s'")
        holder.execute(f"""
            create or replace function pipeline.pause_{kind}() returns {kind}
            language plpgsql security definer set lock_timeout = 0 set search_path = pg_catalog, pg_temp
            as $$ begin {body} end $$
        """)
        holder.execute(f"{POINTS[point]} execute function pipeline.pause_{kind}()")
        holder.execute(f"select pg_advisory_lock({LOCK_CLASS}, 0)")
        pause = Pause(database, holder)
        try:
            yield pause
        finally:
            pause.release()
    with database.connect() as connection:
        connection.execute(f"set lock_timeout = '{WAIT_SECONDS}s'")
        connection.execute(f"drop function pipeline.pause_{kind} cascade")


def wait_for(
    database: Database,
    query: str,
    running: Future[Any] | None = None,
    enough: Callable[[list[tuple[Any, ...]]], object] = bool,
) -> list[tuple[Any, ...]]:
    """Repeat a query until its rows are enough, by default until there is one, and return them."""
    deadline = time.monotonic() + WAIT_SECONDS
    with database.connect() as connection:
        while True:
            rows = connection.execute(query).fetchall()
            if enough(rows):
                return rows
            if running is not None and running.done():
                raise AssertionError(f"it ended before it came to the point: {running.exception()}")
            assert time.monotonic() < deadline, f"{query}: {rows}"
            time.sleep(0.01)


def wait_for_copy(database: Database, running: Future[Any] | None = None) -> int:
    """Wait until a session copies a file whose bucket stalls; returns the session's process ID."""
    rows = wait_for(database, "select pid from pg_stat_progress_copy where datname = current_database()", running)
    return int(rows[0][0])


def wait_until_nothing_is_left(database: Database) -> None:
    """Wait until no session of a load, and so no lock and no transaction, is left."""
    wait_for(
        database,
        f"""
        select pid, state, query from pg_stat_activity where datname = current_database() and usename = 'pipeline'
        union all
        select pid, mode, objid::text from pg_locks where locktype = 'advisory' and classid <> {LOCK_CLASS}
        """,
        enough=lambda rows: not rows,
    )
