"""Functions and operators of mle_user that attack the pipeline, and the sessions that the server sees."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple

import psycopg
from conftest import ROOT

from services import SAFE_PATH

# What the pipeline sends to the server is in these.
SOURCES = (
    "alembic/**/*.sql",
    "alembic/**/*.py",
    "sql/**/*.sql",
    "dags/**/*.py",
    *(f"{room}/*.py" for room in ("embedded", "services", "examples")),
)

# The types of the arguments that the shadows are made for.
TYPES = (
    *("integer", "bigint", "text", "name", "date", "timestamptz", "numeric", "double precision", "boolean"),
    "regclass",
)
OTHERS = (
    *("bigint[]", "date[]", "integer[]", "text[]", "jsonb", "interval", "oid", "smallint", "timestamp", "bytea"),
    *("bit", '"char"', "name[]", "regclass[]"),
)
PAIRED = ("integer", "bigint", "numeric", "text", "date", "timestamptz")
# Calls with several types, as the pipeline makes them.
CALLS = (("text", "bigint", "numeric", "numeric"), ("integer", "date", "integer"), ("text", "text", "integer"))
MAX_ARGUMENTS = 5

# The address of a database for a login.
Address = Callable[[str], str]


def safe(address: Address, user: str = "admin") -> psycopg.Connection[tuple[object, ...]]:
    """A connection that finds nothing of mle_user by itself."""
    return psycopg.connect(address(user), autocommit=True, options=SAFE_PATH)


def plant_shadows(address: Address) -> None:
    """Make, as mle_user, functions and operators that are called instead of those of PostgreSQL where they fit better.

    Each call is counted by a sequence, which no rollback resets: see shadows_ran.
    """
    text = "\n".join(path.read_text() for pattern in SOURCES for path in Path(ROOT).glob(pattern))
    words, symbols = set(re.findall(r"\w+(?=\()", text)), set(re.findall(r"[-+*/<>=~!@#%^&|]+", text))
    with safe(address) as connection:
        functions = connection.execute(
            """
            select proname, case when provariadic = 0 then pronargs - pronargdefaults end, pronargs
            from pg_proc where pronamespace = 'pg_catalog'::regnamespace and proname = any(%s)
            """,
            [list(words)],
        ).fetchall()
        operators = connection.execute(
            "select distinct oprname from pg_operator where oprname = any(%s)", [list(symbols)]
        ).fetchall()
    signatures: set[tuple[str, tuple[str, ...]]] = set()
    for name, fewest, most in functions:
        for count in range(1, MAX_ARGUMENTS) if fewest is None else range(max(int(str(fewest)), 1), int(str(most)) + 1):
            if count == 2:
                signatures |= {(str(name), pair) for pair in product(PAIRED, PAIRED)}
            signatures |= {(str(name), (kind,) * count) for kind in TYPES + OTHERS if count < MAX_ARGUMENTS}
            signatures |= {(str(name), call) for call in CALLS if len(call) == count}
    body = "begin perform pg_catalog.nextval('public.shadow_calls'); return 1; end"
    made = f"returns integer language plpgsql as $$ {body} $$"
    statements = [
        "create sequence public.shadow_calls",
        "grant all on sequence public.shadow_calls to public",
        *(f'create function public."{name}"({", ".join(types)}) {made}' for name, types in sorted(signatures)),
        *(f"create function public.shadow({left}, {right}) {made}" for left, right in product(TYPES, TYPES)),
        *(
            f"create operator public.{symbol} (leftarg = {left}, rightarg = {right}, function = public.shadow)"
            for (symbol,), left, right in product(operators, TYPES, TYPES)
        ),
        *(f"create function public.shadow({kind}) {made}" for kind in TYPES),
        *(
            f"create operator public.{symbol} (rightarg = {kind}, function = public.shadow)"
            for (symbol,), kind in product(operators, TYPES)
            if symbol not in ("=", "<>", "<=", ">=", "->>", "=>")
        ),
    ]
    with safe(address, "mle_user") as connection, connection.transaction():
        connection.execute(";".join(statements).encode())


def shadows_ran(address: Address) -> bool:
    """Whether one of the shadows was called."""
    with safe(address) as connection:
        answer = connection.execute("select is_called from public.shadow_calls").fetchone()
    assert answer is not None
    return bool(answer[0])


def remove_shadows(address: Address) -> None:
    """Drop what plant_shadows made."""
    with safe(address, "mle_user") as connection:
        functions = connection.execute(
            "select string_agg(oid::regprocedure::text, ', ') from pg_proc where proowner = 'mle_user'::regrole"
        ).fetchall()
        connection.execute(f"drop function {functions[0][0]} cascade".encode())
        connection.execute("drop sequence public.shadow_calls")


class Logins(NamedTuple):
    """The sessions that began in a database."""

    address: Address

    def paths(self) -> set[tuple[str, str]]:
        """Each login with the search path that its sessions began with."""
        with safe(self.address) as connection:
            return set(connection.execute("select who::text, path from watch.logins").fetchall())  # type: ignore[arg-type]


@contextmanager
def watched_logins(address: Address) -> Iterator[Logins]:
    """Record each session that begins, as the server sees it."""
    with safe(address) as connection:
        for statement in (
            "create schema watch",
            "create table watch.logins (who name, path text)",
            """
            create function watch.record() returns event_trigger language plpgsql security definer as $$
            begin
                insert into watch.logins values (session_user, pg_catalog.current_setting('search_path'));
            end
            $$
            """,
            "create event trigger record_logins on login execute function watch.record()",
        ):
            connection.execute(statement.encode())
        try:
            yield Logins(address)
        finally:
            connection.execute("drop event trigger record_logins")
            connection.execute("drop schema watch cascade")
