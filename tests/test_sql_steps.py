"""Each file under sql/: given rows, the file as its task runs it and as psql does, expected rows.

A case is a folder tests/cases/<workflow>/<step>/<case>, read by the class below:

    given/<schema>.<table>.csv      rows that are there before; staging.* are staged as the loader stages them
    expected/<schema>.<table>.csv   rows after, of the columns in its header, sorted by them from the left
    case.json                       parameters of the step; what it reports, or the error that refuses

A value left empty is null, and "" is the empty text. Tables of public without expected rows must stay as they were.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import ROOT, Database
from psycopg import sql
from steps import COMMITS_EACH_STATEMENT, SQL, build_feature_store, run_on

CASES = ROOT / "tests" / "cases"
README = SQL / "README.md"

# What the ledger asks for and a case leaves out.
LEDGER_DEFAULTS = """
    alter table pipeline.file_loads
        alter column dag_run set default 'case',
        alter column started_at set default clock_timestamp()
"""


@dataclass(frozen=True)
class Case:
    """One folder of given and expected rows."""

    folder: Path

    @property
    def file(self) -> str:
        """The SQL file, as the DAGs name it."""
        return f"{self.folder.parent.relative_to(CASES)}.sql"

    @property
    def settings(self) -> dict[str, Any]:
        """What case.json says, if there is one."""
        file = self.folder / "case.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @property
    def parameters(self) -> dict[str, Any]:
        """The step's parameters, which are psql's variables."""
        parameters: dict[str, Any] = self.settings.get("parameters", {})
        return parameters

    def rows(self, kind: str) -> dict[str, str]:
        """The CSV texts below given or expected, by table."""
        return {file.stem: file.read_text() for file in sorted((self.folder / kind).glob("*.csv"))}

    def arrange(self, database: Database) -> None:
        """Bring the given rows to where they belong."""
        given = self.rows("given")
        with database.connect() as admin:
            admin.execute(LEDGER_DEFAULTS)
            for month in sorted(set(re.findall(r"\b(\d{4}-\d{2})-\d{2}\b", given.get("public.sales", "")))):
                make_partition(admin, f"{month}-01")
            for table, text in given.items():
                if not table.startswith("staging."):
                    copy_in(admin, table, text)
        with database.connect("pipeline") as pipeline:
            for table, text in given.items():
                if table.startswith("staging."):
                    stage(pipeline, table, text)
            # As at the end of check_sales.sql.
            pipeline.execute("""
                select pipeline.seal_staged_month(load_id)
                from pipeline.file_loads
                where table_name = 'sales' and outcome = 'checked'
            """)

    def check(self, database: Database, before: dict[str, str]) -> None:
        """Compare every expected table, and with what was before those of public that must be untouched."""
        expected = self.rows("expected")
        with database.connect() as admin:
            for table, text in expected.items():
                assert f"{table}\n{copy_out(admin, table, header(text))}" == f"{table}\n{text}"
        for table, text in contents(database).items():
            if table not in expected:
                assert f"{table}\n{text}" == f"{table}\n{before[table]}"


def contents(database: Database) -> dict[str, str]:
    """The rows of every table of public, as CSV."""
    with database.connect() as admin:
        tables = admin.execute("""
            select format('public.%s', relname), array_agg(attname::text order by attnum)
            from pg_class join pg_attribute on attrelid = pg_class.oid
            where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and attnum > 0 and not attisdropped
            group by relname
        """).fetchall()
        return {table: copy_out(admin, table, columns) for table, columns in tables}


def header(text: str) -> list[str]:
    return text.partition("\n")[0].split(",")


def copy_in(connection: psycopg.Connection[Any], table: str, text: str) -> None:
    into = sql.SQL("copy {} ({}) from stdin (format csv, header match)")
    columns = sql.SQL(", ").join(map(sql.Identifier, header(text)))
    with connection.cursor().copy(into.format(sql.Identifier(*table.split(".")), columns)) as copy:
        copy.write(text)


def copy_out(connection: psycopg.Connection[Any], table: str, columns: list[str]) -> str:
    out = sql.SQL("copy (select {0} from {1} order by {0}) to stdout (format csv, header)")
    selected = sql.SQL(", ").join(map(sql.Identifier, columns))
    with connection.cursor().copy(out.format(selected, sql.Identifier(*table.split(".")))) as copy:
        return b"".join(copy).decode()


def make_partition(admin: psycopg.Connection[Any], month: str) -> None:
    name = sql.Identifier("partitions", f"sales_{month[:7].replace('-', '_')}")
    [(after,)] = admin.execute("select (%s::date + interval '1 month')::date", [month]).fetchall()
    admin.execute(
        sql.SQL("create table {} partition of public.sales for values from ({}) to ({})").format(name, month, after)
    )


def stage(pipeline: psycopg.Connection[Any], table: str, text: str) -> None:
    """Stage rows as the loader does; a month is told by the table's name, as in staging.sales_2024_02."""
    name, year, number = re.fullmatch(r"staging\.(\w+?)(?:_(\d{4})_(\d{2}))?", table).groups()  # type: ignore[union-attr]
    month = f"{year}-{number}-01" if year else None
    with pipeline.transaction():
        if month:
            pipeline.execute("select pipeline.prepare_month(%s)", [month])
        [(target,)] = pipeline.execute("select pipeline.begin_staging(%s, %s)", [name, month]).fetchall()
        copy_in(pipeline, f"staging.{target}", text)
        pipeline.execute("select pipeline.end_staging(%s, %s)", [name, month])


ALL_CASES = [Case(folder) for folder in sorted(CASES.glob("*/*/*"))]
each_case = pytest.mark.parametrize(
    "case", ALL_CASES, ids=[str(case.folder.relative_to(CASES)).replace("/", "-") for case in ALL_CASES]
)


def test_every_sql_file_has_a_case_and_is_run_by_a_dag() -> None:
    dags = "".join(file.read_text() for file in (ROOT / "dags").glob("*.py"))
    files = {str(file.relative_to(SQL)) for file in SQL.rglob("*.sql")}
    assert {case.file for case in ALL_CASES} == files
    # A folder by another name would be read by nobody.
    assert {entry.name for case in ALL_CASES for entry in case.folder.iterdir()} == {"given", "expected", "case.json"}
    for name in files:
        assert f'sql="{name}"' in dags or f"{{% include '{name}' %}}" in dags


@each_case
def test_case_twice_as_its_task_runs_it(database: Database, case: Case) -> None:
    case.arrange(database)
    before = contents(database)
    for _ in ("once", "and twice"):
        refusal = None
        reports: list[str] = []
        try:
            reports = run_on(database, case.file, **case.parameters)
        except psycopg.Error as error:
            refusal = f"{type(error).__name__}: {error.diag.message_primary}"
            if error.diag.message_detail:
                refusal += f"\n{error.diag.message_detail}"
        assert refusal == case.settings.get("refused")
        assert reports == case.settings.get("reports", [])
        case.check(database, before)


@each_case
def test_case_by_the_line_of_the_readme_in_psql(database: Database, case: Case) -> None:
    case.arrange(database)
    before = contents(database)
    done = subprocess.run(
        ["/bin/sh", "-c", psql_line(database, case)],
        env=os.environ | {"PATH": f"{database.cluster.programs}:{os.environ['PATH']}", "PGTZ": "UTC"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    _, _, message = case.settings.get("refused", "").partition(": ")
    assert done.returncode == (3 if message else 0), done.stderr
    for line in message.splitlines():
        assert line in done.stderr
    reports = [line.split("NOTICE:  ")[1] for line in done.stderr.splitlines() if "NOTICE:  " in line]
    assert reports == case.settings.get("reports", [])
    case.check(database, before)


def psql_line(database: Database, case: Case) -> str:
    """The line of sql/README.md, with the file, the address and the variables of a case in place of its example's."""
    [line] = re.findall(r"```sh\n(sed .*?)```", README.read_text(), re.DOTALL)
    for example, mine in {
        "sql/sales/replace_month_of_monthly_sales.sql": f"sql/{case.file}",
        "postgresql://pipeline:pipeline-laptop@localhost:5432/companydata": database.url("pipeline"),
        "-v sale_month=2024-02-01": " ".join(f"-v {name}={value}" for name, value in case.parameters.items()),
        # "without -1", says the paragraph above it
        " -1 ": " " if case.file in COMMITS_EACH_STATEMENT else " -1 ",
    }.items():
        assert line.count(example) == 1
        line = line.replace(example, mine)
    return str(line)


def test_the_readme_names_the_variables_of_each_file() -> None:
    named = {
        file: re.findall(r"`(\w+)`", variables)
        for file, variables in re.findall(r"\| `(\w+/\w+\.sql)` \| ([^|]*) \|", README.read_text())
    }
    assert named == {
        str(file.relative_to(SQL)): list(dict.fromkeys(re.findall(r"%\((\w+)\)s", file.read_text())))
        for file in SQL.rglob("*.sql")
    }


def test_prepare_month_makes_the_partition_of_staged_stores_once(database: Database) -> None:
    for month in ("2023-12-01", "2024-02-01", "2024-02-01"):
        database.run(f"select pipeline.prepare_month('{month}')", "pipeline")
    assert database.run("""
        select inhrelid::regclass::text, pg_get_expr(relpartbound, oid)
        from pg_inherits join pg_class on oid = inhrelid order by 1
    """) == [
        ("staging.stores_2023_12", "FOR VALUES IN ('2023-12-01')"),
        ("staging.stores_2024_02", "FOR VALUES IN ('2024-02-01')"),
    ]
    with pytest.raises(psycopg.errors.RaiseException, match="2024-02-02 is not the first day of a month"):
        database.run("select pipeline.prepare_month('2024-02-02')", "pipeline")


def test_replace_feature_store_writes_only_what_has_changed(database: Database) -> None:
    database.run("insert into customer_profiles select n, n, 'A', 'x' from generate_series(1, 9) as n")
    database.run("insert into labels select n, 0 from generate_series(1, 9) as n")
    database.run("insert into customer_activity select n, '2020-01-01', null, null, n from generate_series(1, 9) as n")
    build_feature_store(database)
    before: dict[int, str] = dict(database.run("select idx, xmin::text || ctid::text from feature_store"))

    database.run("update customer_profiles set attr_b = null where idx = 1")
    database.run("update customer_activity set scd_a = 0.5 where idx = 2")
    database.run(
        "update customer_activity set valid_to = '2020-02-01' where idx = 3"
    )  # alike, but not current any more
    database.run("update labels set label = 1 where idx = 4")
    database.run("delete from customer_profiles where idx = 5")
    database.run("delete from customer_activity where idx = 6")
    database.run("delete from labels where idx = 7")
    database.run("insert into customer_profiles values (10, 10, 'A', 'x')")
    database.run("insert into labels values (10, 0)")
    database.run("insert into customer_activity values (10, '2020-01-01', null, 1, 1)")
    build_feature_store(database)
    assert database.run("select * from feature_store where idx in (1, 2, 4, 10) order by idx") == [
        (1, 1, None, None, 1, 0),
        (2, 2, "A", 0.5, 2, 0),
        (4, 4, "A", None, 4, 1),
        (10, 10, "A", 1.0, 1, 0),
    ]
    after: dict[int, str] = dict(database.run("select idx, xmin::text || ctid::text from feature_store"))
    assert sorted(after) == [1, 2, 3, 4, 8, 9, 10]
    assert {idx for idx in after if after[idx] == before.get(idx)} == {3, 8, 9}
    assert database.run("select count(*) from staging.clients") == [(0,)]


def test_lint_fails_on_sql_in_another_style_and_excepts_no_file_and_no_rule() -> None:
    command = [sys.executable, "-m", "sqlfluff", "lint", "--disable-progress-bar", "--config", "pyproject.toml", "-"]
    for statement, code in (("select idx from labels\n", 0), ("SELECT idx from labels\n", 1), ("selec idx\n", 1)):
        done = subprocess.run(command, cwd=ROOT, input=statement, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout
    assert not [file for file in ROOT.glob("**/.sqlfluff*") if ".venv" not in file.parts]
    assert not [file for file in SQL.rglob("*.sql") if "noqa" in file.read_text()]
    assert "exclude_rules" not in (ROOT / "pyproject.toml").read_text()
