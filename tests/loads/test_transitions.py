"""Every change of a load's status is in the table at the top of 0104_ledger.sql."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pytest
from conftest import ROOT, Database
from support import transitions
from support.transitions import LEDGER

pytestmark = pytest.mark.slow

MONTH = "2024-02-01"


class Loads:
    """Loads of one month, or of another file, brought to a status by the functions that the tasks call."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.runs = (f"run {number}" for number in count())

    def call(self, function: str, *arguments: object) -> Any:
        """Call a function of the pipeline with arguments that are a number or a literal of SQL."""
        rows = self.connection.execute(f"select pipeline.{function}({', '.join(map(str, arguments))})".encode())
        return rows.fetchall()[0][0]

    def begun(self, run: str | None = None, file: str = f"'sales', '{MONTH}'") -> int:
        load = self.call("begin_load", file, "'https://bucket'", "'dag'", f"'{run or next(self.runs)}'")
        self.call("request_file", load)
        self.call("create_staged", load)
        return int(load)

    def brought(self, load: int, function: str, *arguments: object) -> int:
        """The load, after a call with it as the first argument."""
        self.call(function, load, *arguments)
        return load

    def stage(self, load: int) -> int:
        return self.brought(load, "stage_load", "null", "null", 1, "'x'", 0)

    def staged(self, run: str | None = None) -> int:
        return self.stage(self.begun(run))

    def checked(self, run: str | None = None, error: str = "null") -> int:
        return self.brought(self.staged(run), "check_load", error)

    def pending(self, run: str | None = None, until: str = "'infinity'") -> int:
        return self.brought(self.checked(run), "request_approval", until)

    def published(self) -> int:
        return self.brought(self.checked(), "publish_load")


@pytest.fixture
def loads(database: Database) -> Iterator[Loads]:
    with database.connect() as admin, database.connect("pipeline") as connection:
        transitions.record(admin)
        yield Loads(connection)


def test_every_listed_change_of_a_status_happens_and_no_other(database: Database, loads: Loads) -> None:
    call = loads.call

    # An attempt that stages nothing.
    for status in ("waiting", "not_in_source", "rejected", "failed"):
        call("stop_load", loads.begun(), f"'{status}'", "'a reason'")
    loads.begun()
    loads.connection.execute("set application_name = ''")  # the session of the load is gone
    call("clean_up")

    # Checked, also repeatedly.
    load = loads.checked()
    call("check_load", load, "'a reason'")
    call("check_load", load, "null")
    for error in ("null", "'a reason'"):
        call("check_load", loads.pending(), error)

    # Decided on, or not.
    assert call("decide_load", loads.pending(), "true", "'a person'") == "checked"
    assert call("decide_load", loads.pending(), "false", "'a person'") == "rejected"
    assert call("decide_load", loads.pending(until="now()"), "true", "'a person'") == "failed"
    loads.pending(until="now()")
    call("clean_up")
    for load in (loads.staged(), loads.checked()):
        database.run(f"update pipeline.loads set updated_at = now() - interval '31 days' where load_id = {load}")
    call("clean_up")

    # Superseded by a later load, or by the next attempt of the run.
    with database.connect("pipeline") as other:  # or the load would count as killed when the session gets another name
        slow = Loads(other)
        late, wrong = slow.begun("slow"), loads.checked(error="'a reason'")
        for bring in (loads.staged, loads.checked, loads.pending, loads.published):
            bring()
        slow.stage(late)
    call("check_load", wrong, "null")
    call("retire_load", loads.published())
    loads.published()
    for staged in (loads.staged, loads.checked, loads.pending):
        staged("a run")
        loads.begun("a run")

    # A file that is published with another has the number of that one's request when it is checked.
    deciding = loads.staged()
    for number in ("null", deciding):
        load = loads.stage(loads.begun(file="'labels', null"))
        call("check_load", load, "null", number)
        if number == "null":
            call("publish_load", load)

    with database.connect() as admin:
        assert transitions.seen(admin) == transitions.listed()


def changes_a_status(text: str) -> bool:
    """Whether SQL inserts loads, or names their status where it sets columns."""
    return any(
        kind == "insert into" or re.search(r"\bstatus\s*=", re.split(r"\b(?:from|where)\b", statement)[0])
        for kind, statement in re.findall(r"\b(update|insert into|merge into)\s+pipeline\.loads\b([^;]*)", text.lower())
    )


def test_nothing_but_the_listed_functions_changes_a_status() -> None:
    functions = (
        each.split("(", 1) for each in re.split(r"^create function pipeline\.", LEDGER.read_text(), flags=re.M)[1:]
    )
    changing = {name for name, text in functions if changes_a_status(text.partition("\ncomment on ")[0])}
    assert changing == {each.function for each in transitions.listed()}
    folders = ("alembic", "dags", "embedded", "plugins", "services", "sql")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sql")]
    # What a preview inserts is rolled back.
    assert [path for path in paths if changes_a_status(path.read_text())] == [LEDGER, ROOT / "embedded/preview.py"]
