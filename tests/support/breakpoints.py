"""Named points at which a session of a load waits until the test goes on: no fault depends on the machine's speed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from conftest import Database

# Far more than a step takes on a busy machine: only a test that fails waits so long.
WAIT_SECONDS = 120
LOCK_CLASS = 20_240_201
EVENTS = ("insert", "update", "delete", "truncate")
# The tables with points.
PLACES = [
    *("public.stores", "public.sales", "public.monthly_sales", "public.customer_profiles", "public.customer_activity"),
    *("public.labels", "public.feature_history", "public.feature_store", "pipeline.client_hashes"),
    *("pipeline.group_totals", "pipeline.rejected_builds", "pipeline.feature_store_builds"),
]

# The points:
#
#     sales begun, sales requested, sales staged, …, load begun, …
#                              the load of that table, or any, has come to this status in the ledger
#     before commit            all rows of a publication are written
#     insert public.stores, …  rows of that table were inserted, updated, deleted or truncated
#
# A session that comes to a point takes the point's lock for a moment. That lock is free unless a test pauses there.
# It waits there longer than a test does, whatever lock_timeout the load sets, and not for ever if the test fails.
INSTALL = """
create schema breakpoints;

create function breakpoints.wait_at(point text) returns void
language plpgsql security definer set lock_timeout = '{seconds}s' set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_lock_shared({lock_class}, hashtext(point));
    perform pg_advisory_unlock_shared({lock_class}, hashtext(point));
end
$$;

create function breakpoints.wait() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform breakpoints.wait_at(tg_argv[0]);
    return null;
end
$$;

create function breakpoints.wait_of_load() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    status constant text := case
        when new.status <> 'loading' then new.status
        when new.requested_at is null then 'begun'
        else 'requested'
    end;
begin
    perform breakpoints.wait_at(table_name || ' ' || status) from pipeline.files where file_id = new.file_id;
    perform breakpoints.wait_at('load ' || status);
    return null;
end
$$;

create trigger pause after insert or update on pipeline.loads
for each row execute function breakpoints.wait_of_load();

create constraint trigger pause_before_commit after update on pipeline.loads deferrable initially deferred
for each row when (new.status = 'published') execute function breakpoints.wait('before commit');

do $$
declare
    place text;
    event text;
begin
    foreach place in array array{places}::text[] loop
        continue when to_regclass(place) is null;
        foreach event in array array{events} loop
            execute format(
                'create trigger pause_%2$s after %2$s on %1$s '
                'for each statement execute function breakpoints.wait(%3$L)',
                place, event, event || ' ' || place
            );
        end loop;
    end loop;
end
$$;

grant usage on schema breakpoints to public;
"""


@dataclass(frozen=True)
class Pause:
    """A point at which sessions wait for the holder."""

    database: Database
    point: str
    holder: psycopg.Connection[Any]

    def wait(self, running: Future[Any] | None = None) -> int:
        """Wait until what is running has brought a session to the point; returns the session's process ID."""
        rows = wait_for(
            self.database,
            f"""
            select pid from pg_locks
            where locktype = 'advisory' and not granted and database = (
                select oid from pg_database where datname = current_database()
            ) and (classid::bigint, objid::bigint) = ({LOCK_CLASS}, hashtext('{self.point}')::bigint & 4294967295)
            """,
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
    with database.connect() as holder:
        install(holder)
        holder.execute(f"select pg_advisory_lock({LOCK_CLASS}, hashtext(%s))", [point])
        pause = Pause(database, point, holder)
        try:
            yield pause
        finally:
            pause.release()


@contextlib.contextmanager
def paused(database: Database, point: str, work: Callable[[], object]) -> Iterator[int]:
    """Do the work in a thread up to a point, where it waits while the block runs, and then to its end or error.

    Yields:
        The process ID of the session that waits.
    """
    with pausing(database, point) as pause, ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        yield pause.wait(running)
        pause.release()
        running.result(WAIT_SECONDS)


def run_beside(database: Database, point: str, first: Callable[[], object], second: Callable[[], object]) -> None:
    """Do the first up to a point, let the second come to wait for it there, and let both end."""
    with ThreadPoolExecutor(1) as pool:
        with paused(database, point, first) as pid:
            waiting = pool.submit(second)
            wait_until_blocked(database, pid, waiting)
        waiting.result(WAIT_SECONDS)


def install(admin: psycopg.Connection[Any]) -> None:
    """Make the points in a database, once. They stay: without a test that pauses there, nobody waits."""
    if admin.execute("select to_regnamespace('breakpoints') is null").fetchone() == (True,):
        with admin.transaction():
            admin.execute(
                INSTALL.format(lock_class=LOCK_CLASS, seconds=3 * WAIT_SECONDS, events=list(EVENTS), places=PLACES)
            )


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
            ended = running is not None and running.done()
            rows = connection.execute(query).fetchall()
            if enough(rows):
                return rows
            if ended and running is not None:
                raise AssertionError(f"it ended before it came to the point: {running.exception()!r}")
            assert time.monotonic() < deadline, f"{query}: {rows}"
            time.sleep(0.01)


def wait_until_blocked(database: Database, holder: int, running: Future[Any] | None = None) -> int:
    """Wait until a session waits for a lock of the holder, a process ID; returns that of the waiting session."""
    query = f"""
        select pid from pg_stat_activity
        where datname = current_database() and {holder} = any(pg_blocking_pids(pid))
    """
    return int(wait_for(database, query, running)[0][0])


def locks_on_tables(database: Database, pid: int) -> set[str]:
    """The modes of the locks that a session has on the tables that readers see."""
    rows = database.run(f"""
        select distinct mode from pg_locks join pg_class on relation = pg_class.oid
        where pid = {pid} and granted and relnamespace in ('public'::regnamespace, 'partitions'::regnamespace)
    """)
    return {mode for (mode,) in rows}


def wait_until_nothing_is_left(database: Database) -> None:
    """Wait until no session of a load, and so no lock and no transaction, is left."""
    wait_for(
        database,
        "select pid, state, query from pg_stat_activity where datname = current_database() and usename = 'pipeline'",
        enough=lambda rows: not rows,
    )
