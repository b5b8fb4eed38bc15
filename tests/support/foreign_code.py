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

# How the arguments of an overload can end. One with more arguments, which have defaults, makes the call an error.
TAILS = ("", "variadic text[]", "variadic timestamp with time zone[]")

BODY = "begin perform pg_catalog.nextval('public.shadow_calls'); return 1; end"
MADE = f"returns integer language plpgsql as $$ {BODY} $$"

# The address of a database for a login.
Address = Callable[[str], str]


def safe(address: Address, user: str = "admin") -> psycopg.Connection[tuple[object, ...]]:
    """A connection that finds nothing of mle_user by itself."""
    return psycopg.connect(address(user), autocommit=True, options=SAFE_PATH)


def allow_overloads(address: Address) -> None:
    """Put an event trigger that does nothing in place of the one that rejects overloads.

    So they can be made as on a server without a superuser, also by the next migration.
    """
    with safe(address) as connection:
        for statement in (
            "drop event trigger if exists functions_without_overloads",
            "create or replace function public.allow() returns event_trigger language plpgsql as 'begin end'",
            "create event trigger functions_without_overloads on ddl_command_end execute function public.allow()",
        ):
            connection.execute(statement.encode())


def plant_overloads(address: Address) -> None:
    """Make, as mle_user, functions and domains that are called instead of functions of public where they fit better.

    Each call is counted by a sequence, which no rollback resets: see shadows_ran.
    """
    with safe(address) as connection:
        own = connection.execute("""
            select proname, array(select format_type(type, null) from unnest(proargtypes) as type)
            from pg_proc where pronamespace = 'public'::regnamespace and prorettype <> 'event_trigger'::regtype
        """).fetchall()
        connection.execute("alter event trigger functions_without_overloads disable")
    signatures: dict[tuple[object, str], str] = {}
    for name, types in own:
        assert isinstance(types, list)
        for count, tail in product(range(len(types) + 1), TAILS):
            for start in product(*({kind, "text"} for kind in types[:count])):
                arguments = ", ".join(filter(None, (*start, tail)))
                signatures.setdefault((name, arguments.replace("variadic ", "")), arguments)
    for name, types in own:
        signatures.pop((name, ", ".join(types)))  # type: ignore[arg-type]
    statements = [
        "create sequence public.shadow_calls",
        "grant all on sequence public.shadow_calls to public",
        f"create function public.shadow(text) {MADE}",
        *(f'create function public."{name}"({arguments}) {MADE}' for (name, _), arguments in signatures.items()),
        # With one argument without a type, the name of a function can be that of a type.
        *(
            f'create domain public."{name}" as text check (public.shadow(value) > 0)'
            for name in {name for name, _ in own}
        ),
    ]
    with safe(address, "mle_user") as connection, connection.transaction():
        connection.execute(";".join(statements).encode())


def plant_shadows(address: Address) -> None:
    """Make, as mle_user, functions and operators that are called instead of those of PostgreSQL where they fit better.

    Overloads of the functions of public are among them.
    """
    plant_overloads(address)
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
    statements = [
        *(f'create function public."{name}"({", ".join(types)}) {MADE}' for name, types in sorted(signatures)),
        *(f"create function public.shadow({left}, {right}) {MADE}" for left, right in product(TYPES, TYPES)),
        *(
            f"create operator public.{symbol} (leftarg = {left}, rightarg = {right}, function = public.shadow)"
            for (symbol,), left, right in product(operators, TYPES, TYPES)
        ),
        *(f"create function public.shadow({kind}) {MADE}" for kind in TYPES if kind != "text"),
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
    """Drop what plant_overloads or plant_shadows made, and reject overloads again."""
    with safe(address) as connection:
        connection.execute("alter event trigger functions_without_overloads enable")
    with safe(address, "mle_user") as connection:
        [(drops,)] = connection.execute("""
            select string_agg(format('drop %s %s cascade', kind, name), ';')
            from (
                select 'function', oid::regprocedure::text from pg_proc where proowner = 'mle_user'::regrole
                union all
                select 'domain', oid::regtype::text from pg_type where typowner = 'mle_user'::regrole and typtype = 'd'
            ) as planted (kind, name)
        """).fetchall()
        connection.execute(str(drops).encode())
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
