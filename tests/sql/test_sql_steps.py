"""Each file under sql/: given rows, the file as its task runs it and as psql does, expected rows.

A case is a file tests/cases/<workflow>/<file>/<case>.yaml, read by the class below. Files that one task runs in one
transaction have cases together, by the name of the task:

    what         the case in one sentence
    given        loads: the ledger, in the order in which the loads begin, so that the first is load 1;
                 tables: rows that other tables hold before; statements: what an administrator has run before
    parameters   the parameters of the SQL file
    expected     tables: rows after, of the columns in the header, sorted by them from the left;
                 reports: what the file reports; answer: the only value that the last statement returns;
                 rejected or superseded: the message that the file fails with, and what for

Tables are CSV: a value left empty is null, and "" is the empty text. Tables of public that are not expected must not
change. A publish file that fails changes nothing at all. Its second run fails, because its load is published already.
"""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from conftest import ROOT, Database, Rows
from psycopg import sql
from support.steps import SQL, connect, dag, dags, run_sql

from company_data.loads import PUBLISHED_ALREADY, REQUIRE_CHECKED, SUPERSEDED, CheckOperator

CASES = ROOT / "tests" / "cases"
README = SQL / "README.md"

# As the check files do.
CHECK = """
    select pipeline.check_load(
        %s::bigint, %s, (
            select deciding.load_id
            from pipeline.loads
            join pipeline.file_rows using (file_id)
            join pipeline.files as deciding_files on deciding_files.table_name = file_rows.published_with
            join pipeline.loads as deciding
                on deciding.file_id = deciding_files.file_id and deciding.run_id = loads.run_id
            where loads.load_id = %s
        )
    )
"""
# As the publish files do.
PUBLISH = (
    "with deleted as (delete from public.{file} where {condition}) insert into public.{file} select * from {staged}"
)
PUBLISH_STORES = """
    insert into public.stores select distinct idx, location from {staged}
    on conflict (idx) do update set location = excluded.location
"""

# Of every table, with the ledger and what is staged.
SCHEMAS = ("public", "pipeline", "staging", "partitions")

# Why a file fails, by the name that a case gives it: the SQLSTATE.
FAILURES = {"rejected": str(psycopg.errors.CheckViolation.sqlstate), "superseded": SUPERSEDED}
Failure = tuple[str, str]  # SQLSTATE, message
Connection = psycopg.Connection[Any]


def texts_of(task: SQLExecuteQueryOperator) -> list[str]:
    return [task.sql] if isinstance(task.sql, str) else list(task.sql)


@cache
def sql_tasks() -> dict[str, SQLExecuteQueryOperator]:
    """The tasks that run SQL, by the text of each of their files."""
    tasks = [task for each in dags().values() for task in each.tasks if isinstance(task, SQLExecuteQueryOperator)]
    return {text: task for task in tasks for text in texts_of(task) if text.startswith("-- ")}


@cache
def files_by_text() -> dict[str, Path]:
    return {file.read_text(): file for file in SQL.rglob("*.sql")}


@dataclass(frozen=True)
class Case:
    """One file of given and expected rows."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(CASES).with_suffix(""))

    @cached_property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = yaml.load(self.path.read_text(), yaml.CSafeLoader)
        return settings

    @property
    def file(self) -> Path:
        """The SQL file; there is none of the name of a task that runs several."""
        return SQL / self.path.parent.relative_to(CASES).with_suffix(".sql")

    @cached_property
    def task(self) -> SQLExecuteQueryOperator:
        if self.file.exists():
            return sql_tasks()[self.file.read_text()]
        workflow, task = self.path.parts[-3:-1]
        return dag(workflow).get_task(task)  # type: ignore[no-any-return]

    @property
    def files(self) -> list[Path]:
        """The SQL files that the task runs."""
        return [files_by_text()[text] for text in texts_of(self.task) if text in files_by_text()]

    @property
    def loads(self) -> list[int]:
        """The loads that the parameters name."""
        return [int(load) for name, load in self.parameters.items() if name.endswith("load")]

    @property
    def checks(self) -> bool:
        """Whether the task raises the verdict after it."""
        return isinstance(self.task, CheckOperator)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the file, which are psql's variables."""
        return {name: str(value) for name, value in self.settings.get("parameters", {}).items()}

    @property
    def failure(self) -> Failure | None:
        """What the file fails with."""
        expected = self.settings["expected"]
        return next(((sqlstate, expected[name]) for name, sqlstate in FAILURES.items() if name in expected), None)

    @property
    def failure_again(self) -> Failure | None:
        """What the file fails with when it runs for the second time."""
        if self.failure or not self.file.stem.startswith("publish_"):
            return self.failure
        number = int(self.parameters[parameters_of(self.file.read_text())[0]])
        load = self.settings["given"]["loads"][number - 1]
        address = address_of(load["file"], load.get("month"))
        return PUBLISHED_ALREADY, f"{address}: load {number} is published already, so nothing is changed."

    def arrange(self, database: Database, admin: Connection) -> None:
        """Create the given loads and rows, and run the given statements."""
        given: dict[str, Any] = dict(self.settings.get("given", {}))
        loads, statements = given.pop("loads", []), given.pop("statements", None)
        with connect(database) as pipeline:
            for number, load in enumerate(loads, 1):
                create_load(pipeline, number, **load)
        statuses = admin.execute("select status from pipeline.loads order by load_id").fetchall()
        assert [status for (status,) in statuses] == [load["status"] for load in loads]
        for table, text in given.items():
            copy_in(admin, table, text)
        if statements:
            admin.execute(statements)

    def check(self, admin: Connection, before: dict[str, Rows]) -> None:
        """Compare every expected table, and that the other tables of public have not changed."""
        expected = {table: text for table, text in self.settings["expected"].items() if "." in table}
        assert {table: copy_out(admin, table, header(text)) for table, text in expected.items()} == expected
        others = [{table: each[table] for table in each if table not in expected} for each in (contents(admin), before)]
        assert others[0] == others[1]


def create_load(
    pipeline: Connection,
    number: int,
    file: str,
    status: str,
    rows: str = "",
    month: object = None,
    error: str | None = None,
    request: int | None = None,
    sha256: str | None = None,
    run: str | None = None,
) -> None:
    """Create a load in the ledger, and take it to its status as the workflows do.

    Args:
        pipeline, number, file: the connection of a task, the number that the load must have, and its table.
        status: how far the load has come. A superseded load is checked here; a later load supersedes it.
        rows: the file, as CSV.
        month: for sales, the first day of the month.
        error: why the load is waiting, rejected or failed.
        request: the number of the request, if not the next one.
        sha256: the version of the file, if not the SHA-256 of its rows.
        run: the run of the DAG, if not one of this load alone.
    """
    [(load,)] = pipeline.execute(
        "select pipeline.begin_load(%s, %s::date, %s, 'case', %s)",
        [file, month and str(month), address_of(file, month), run or f"case {number}"],
    ).fetchall()
    assert load == number
    pipeline.execute("select pipeline.request_file(%s::bigint)", [load])
    if request is not None:
        pipeline.execute("update pipeline.loads set request_number = %s where load_id = %s", [request, load])
    if status == "loading":
        return
    if not rows:
        pipeline.execute("select pipeline.stop_load(%s::bigint, %s, %s)", [load, status, error])
        return

    [(staged,)] = pipeline.execute("select pipeline.create_staged(%s::bigint)", [load]).fetchall()
    copy_in(pipeline, staged, rows)
    version = sha256 or hashlib.sha256(rows.encode()).hexdigest()
    pipeline.execute(
        "select pipeline.stage_load(%s::bigint, null, null, %s::bigint, %s, %s::bigint)",
        [load, len(rows.encode()), version, rows.count("\n") - 1],
    )
    if status == "staged":
        return
    source = sql.Identifier(*staged.split("."))
    pipeline.execute(CHECK, [load, error, load])
    if status == "published":
        with pipeline.transaction():
            pipeline.execute("select pipeline.publish_load(%s::bigint)", [load])
            [(condition,)] = pipeline.execute(
                "select condition from pipeline.file_rows join pipeline.loads using (file_id) where load_id = %s",
                [load],
            ).fetchall()
            publish = sql.SQL(PUBLISH_STORES if file == "stores" else PUBLISH)
            pipeline.execute(publish.format(file=sql.Identifier(file), condition=sql.SQL(condition), staged=source))
            if file != "stores":
                pipeline.execute("select pipeline.drop_staged(%s::bigint)", [load])


def address_of(file: str, month: object = None) -> str:
    return f"https://bucket/{f'{file}/{month}/' if month else ''}{file}.csv"


def contents(admin: Connection, *schemas: str) -> dict[str, Rows]:
    """The rows of every table of these schemas, by default of public, as text."""
    query = """
        select string_agg(format(
            'select %%L, (select array_agg(row::text order by row::text) from %%s as row)', oid::regclass, oid::regclass
        ), ' union all ')
        from pg_class where relnamespace::regnamespace::text = any(%s) and relkind in ('r', 'p')
    """
    [(each_table,)] = admin.execute(query, [list(schemas) or ["public"]]).fetchall()
    found = admin.execute(each_table).fetchall()
    return {table if "." in table else f"public.{table}": rows for table, rows in found}


def header(text: str) -> list[str]:
    return text.partition("\n")[0].split(",")


def copy_in(connection: Connection, table: str, text: str) -> None:
    into = sql.SQL("copy {} ({}) from stdin (format csv, header match)")
    columns = sql.SQL(", ").join(map(sql.Identifier, header(text)))
    with connection.cursor().copy(into.format(sql.Identifier(*table.split(".")), columns)) as copy:
        copy.write(text)


def copy_out(connection: Connection, table: str, columns: list[str]) -> str:
    out = sql.SQL("copy (select {0} from {1} order by {0}) to stdout (format csv, header)")
    selected = sql.SQL(", ").join(map(sql.Identifier, columns))
    with connection.cursor().copy(out.format(selected, sql.Identifier(*table.split(".")))) as copy:
        return b"".join(copy).decode()


ALL_CASES = [Case(path) for path in sorted(CASES.glob("*/*/*.yaml"))]


def one_of_each() -> list[Case]:
    """The first case of each file that succeeds, and of each way to fail of the files with and without a verdict."""
    chosen = {
        (case.checks, case.failure[0]) if case.failure else case.path.parent: case for case in reversed(ALL_CASES)
    }
    return sorted(chosen.values(), key=str)


def each_of(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name.replace("/", "-") for case in cases])


def test_every_sql_file_has_a_case_a_task_that_binds_its_parameters_and_a_row_in_the_readme() -> None:
    parameters = {file: sorted(parameters_of(text)) for text, file in files_by_text().items()}
    assert {file for case in ALL_CASES for file in case.files} == parameters.keys()
    # A file of another name or in another folder would not be read.
    assert {path for path in CASES.rglob("*") if path.is_file()} == {case.path for case in ALL_CASES}
    assert {files_by_text()[text]: sorted(task.parameters or {}) for text, task in sql_tasks().items()} == parameters
    rows = re.findall(r"\| `(\w+/\w+\.sql)` \| ([^|]*) \|", README.read_text())
    assert {SQL / file: sorted(re.findall(r"`(\w+)`", named)) for file, named in rows} == parameters


# What a file fails with, what it reports, and the only value that its last statement returns, where the case names it.
Outcome = tuple[Failure | None, list[str], object]


def assert_twice(database: Database, case: Case, run: Callable[[Database, Case], Outcome]) -> None:
    """Run a case twice, and compare what it fails with, reports, returns and leaves."""
    with database.connect() as admin:
        case.arrange(database, admin)
        before = contents(admin)
        expected = case.settings["expected"]
        for failure in (case.failure, case.failure_again):
            changes_nothing = case.file.stem.startswith("publish_") and failure is not None
            everything_before = contents(admin, *SCHEMAS) if changes_nothing else {}
            # A publish file that finds its load published has stopped at its first statement.
            reports = [] if failure and failure[0] == PUBLISHED_ALREADY else expected.get("reports", [])
            assert run(database, case) == (failure, reports, expected.get("answer"))
            case.check(admin, before)
            assert not changes_nothing or contents(admin, *SCHEMAS) == everything_before


def by_its_task(database: Database, case: Case) -> Outcome:
    reported: list[str] = []
    answer: list[tuple[Any, ...]] | None = [] if "answer" in case.settings["expected"] else None
    failed = None
    with connect(database) as pipeline:
        pipeline.add_notice_handler(lambda notice: reported.append(str(notice.message_primary)))
        try:
            run_sql(pipeline, case.task.sql, case.parameters, bool(case.task.autocommit), answer)
            if case.checks:
                pipeline.execute(REQUIRE_CHECKED, {"loads": case.loads})
        except psycopg.Error as error:
            failed = str(error.sqlstate), str(error.diag.message_primary)
    return failed, reported, answer and answer[0][0]


def by_psql(database: Database, case: Case) -> Outcome:
    done = subprocess.run(
        ["/bin/sh", "-c", psql_line(database, case)],
        env=os.environ | {"PATH": f"{database.cluster.programs}:{os.environ['PATH']}", "PGTZ": "UTC"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.findall(r"ERROR:  (\w+): (.*)", done.stderr)
    # psql ends with 3 for an error in a file, and with 1 for the verdict.
    assert done.returncode in ((1, 3) if failed else (0,)), done.stderr
    shown = done.stdout.splitlines()[2].strip() if "answer" in case.settings["expected"] else ""
    answers: dict[str, object] = {"t": True, "f": False, "": None}
    return failed[0] if failed else None, re.findall(r"NOTICE:  \w+: (.*)", done.stderr), answers.get(shown, shown)


@each_of(ALL_CASES)
def test_case_twice_as_its_task_runs_it(database: Database, case: Case) -> None:
    assert_twice(database, case, by_its_task)


@pytest.mark.slow
@each_of(one_of_each())
def test_case_twice_by_the_line_of_the_readme_in_psql(database: Database, case: Case) -> None:
    assert_twice(database, case, by_psql)


def psql_line(database: Database, case: Case) -> str:
    """The line of sql/README.md, with the file, the address and the variables of a case in place of its example's.

    Files that are run together have their line in the first of them.
    """
    url = f"{database.url('pipeline')} -v VERBOSITY=verbose"
    if not case.file.exists():
        [line] = re.findall(r"^--     (psql .*\n(?:--         .*\n)*)", case.files[0].read_text(), re.MULTILINE)
        # The loss is that of conftest.py.
        replaced = {"psql ": f"psql {url} ", "max_loss = '20'": "max_loss = '100'", "\n--": "\n"}
        return f"cd {case.files[0].parent} && {with_replaced(line, replaced)}"
    run, raise_verdict = re.findall(r"```sh\n((?:sed|psql) .*?)```", README.read_text(), re.DOTALL)
    example = "postgresql://pipeline:pipeline-laptop@localhost:5432/companydata"
    variables = " ".join(f"-v {name}={value}" for name, value in case.parameters.items())
    replaced = {
        "sql/sales/publish_month.sql": str(case.file.relative_to(ROOT)),
        example: url,
        "-v file_month=2024-02-01 -v load=1 -v stores_load=2": variables,
        # "Run the other files with -1", says the paragraph above it.
        " -f -": " -f -" if case.task.autocommit else " -1 -f -",
    }
    line = with_replaced(run, replaced)
    if not case.checks:
        return line
    # "... and raise the verdict", says the paragraph below it.
    loads = f"({', '.join(map(str, case.loads))})"
    return f"{line.rstrip()} &&\n{with_replaced(raise_verdict, {example: url, '(1, 2)': loads})}"


def with_replaced(line: str, replaced: dict[str, str]) -> str:
    for example, mine in replaced.items():
        assert example in line
        line = line.replace(example, mine)
    return line


def parameters_of(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))


def test_lint_fails_on_sql_in_another_style_and_excepts_no_file_and_no_rule(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sqlfluff", "lint", "--disable-progress-bar", "--config", "pyproject.toml"]
    for name, statement in {"good": "select idx", "capitals": "SELECT idx", "broken": "selec idx"}.items():
        (tmp_path / f"{name}.sql").write_text(f"{statement} from labels\n")
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert set(re.findall(r"(\w+)\.sql\] FAIL", done.stdout)) == {"capitals", "broken"}, done.stdout
    assert done.returncode == 1
    assert "sqlfluff lint --disable-progress-bar alembic/versions sql\n" in (ROOT / "Makefile").read_text()
    assert not [file for file in ROOT.glob("**/.sqlfluff*") if ".venv" not in file.parts]
    files = [*SQL.rglob("*.sql"), *(ROOT / "alembic" / "versions").glob("*.sql")]
    assert not [file for file in files if "noqa" in file.read_text()]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["sqlfluff"]["core"]
    assert not settings.keys() & {"ignore", "rules", "warnings"}
    assert settings["exclude_rules"] == "AM04,AL03"
