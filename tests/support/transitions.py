"""The changes of pipeline.loads.status: those that 0104_ledger.sql lists, and those that a trigger sees."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import psycopg
from conftest import ROOT, Database

LEDGER = ROOT / "alembic/versions/0104_ledger.sql"


class Transition(NamedTuple):
    """A change of a load's status, and the function that made it; the status before is null for a new load."""

    before: str | None
    after: str
    function: str | None


# The innermost function of the call that fired the trigger: the first line of the context is the trigger's own.
RECORD = """
create schema transitions;

create table transitions.seen (before text, after text, function text);

create function transitions.record() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    context text;
begin
    get diagnostics context = pg_context;
    context := substring(context from E'\\n(.*)');
    insert into transitions.seen
    select
        case when tg_op = 'UPDATE' then old.status end,
        new.status,
        substring(context from '(?:PL/pgSQL function (?:pipeline[.])?|SQL function ")([a-z_]+)');
    return null;
end
$$;

create trigger record_insert after insert on pipeline.loads
for each row execute function transitions.record();

create trigger record_update after update on pipeline.loads
for each row when (old.status <> new.status) execute function transitions.record();
"""


def listed() -> set[Transition]:
    """The table at the top of 0104_ledger.sql, one transition for each pair of statuses."""
    text = LEDGER.read_text().partition("\n\ncreate ")[0]
    rows = [re.split(r" {2,}", line[2:].strip()) for line in text.splitlines() if line.startswith("--     ")]
    assert rows[0] == ["from", "to", "by", "when"]
    return {
        Transition(None if before == "-" else before, after, row[2])
        for row in rows[1:]
        for before, after in product(row[0].split(", "), row[1].split(", "))
    }


def record(admin: psycopg.Connection[Any]) -> None:
    """Record each change of a status that is committed in a database from now on."""
    admin.execute(RECORD)


def seen(admin: psycopg.Connection[Any]) -> set[Transition]:
    """The changes that were committed since record."""
    return {Transition(*row) for row in admin.execute("select distinct * from transitions.seen")}


def unlisted(transitions: Iterable[Transition]) -> set[Transition]:
    """Those that 0104_ledger.sql does not list."""
    return set(transitions) - listed()


@contextmanager
def only_listed(database: Database) -> Iterator[None]:
    """Fail if a status changes in a way that 0104_ledger.sql does not list."""
    with database.connect() as admin:
        record(admin)
        yield
        assert unlisted(seen(admin)) == set()
