"""What the migrations make: the committed dictionary, the comments on it, and what each revision says."""

import re
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from conftest import ROOT, Database

from docs import generate

RENEW = "docs/data_dictionary.md is not what the migrations make: run `make docs`, read the diff, and commit it"


def test_the_committed_data_dictionary_is_what_the_comments_say(template: Database) -> None:
    with template.cluster.connect(template.name) as connection:
        made = generate.dictionary_file(connection)
    assert made.splitlines() == generate.DICTIONARY.read_text().splitlines(), RENEW


def test_every_schema_table_column_and_function_has_a_comment(template: Database) -> None:
    bare = template.run("""
        with mine as (
            select oid, nspname
            from pg_namespace
            where nspname !~ '^pg_' and nspname not in ('information_schema', 'migrations')
        )
        select 'schema ' || nspname from mine where obj_description(oid, 'pg_namespace') is null
        union all
        select 'relation ' || pg_class.oid::regclass
        from pg_class join mine on relnamespace = mine.oid
        where
            relkind in ('r', 'p', 'v', 'm', 'f') and not relispartition
            and obj_description(pg_class.oid, 'pg_class') is null
        union all
        select format('column %s.%s', attrelid::regclass, attname)
        from pg_attribute join pg_class on attrelid = pg_class.oid join mine on relnamespace = mine.oid
        where
            relkind in ('r', 'p', 'v', 'm', 'f') and not relispartition and attnum > 0 and not attisdropped
            -- The columns of views in pipeline are those of its tables.
            and (relkind <> 'v' or nspname = 'public')
            and col_description(attrelid, attnum) is null
        union all
        select 'function ' || pg_proc.oid::regprocedure
        from pg_proc join mine on pronamespace = mine.oid
        where obj_description(pg_proc.oid, 'pg_proc') is null
    """)
    assert bare == []


def test_every_column_that_a_comment_refers_to_exists(template: Database) -> None:
    columns = template.run("""
        select relnamespace::regnamespace::text, relname::text, attname::text, col_description(attrelid, attnum)
        from pg_attribute join pg_class on attrelid = pg_class.oid
        where relnamespace::regnamespace::text in ('public', 'pipeline', 'staging') and attnum > 0
    """)
    existing = {(schema, table, column) for schema, table, column, _ in columns}
    found = [(schema, generate.REFERENCE.search(comment or "")) for schema, *_, comment in columns]
    references = {(schema, *reference.group(1, 2)) for schema, reference in found if reference}
    assert len(references) > 3
    assert references <= existing


PUBLISH_FILES = sorted((ROOT / "sql").glob("*/publish_*.sql"))


def test_publishing_inserts_every_column_of_its_tables(template: Database) -> None:
    """By their names, or all of the file's as they are: its table in staging has those of the table in public."""
    columns: dict[str, list[str]] = dict(
        template.run("""
            select attrelid::regclass::text, array_agg(attname::text order by attnum) from pg_attribute
            join pg_class on pg_class.oid = attrelid
            where relnamespace::regnamespace::text in ('public', 'staging') and attnum > 0 and not attisdropped
            group by attrelid
        """)
    )
    for file in PUBLISH_FILES:
        inserts = re.findall(r"insert into public\.(\w+)(?: \(([^)]+)\))?\nselect( \*)?", file.read_text())
        assert inserts, file
        for table, named, everything in inserts:
            assert named.split(", ") == columns[table] if named else everything
            assert not everything or columns[table] == columns[f"staging.{table}"]


def test_no_function_that_publishing_calls_names_a_table_of_public(template: Database) -> None:
    """What happens to the tables is in the file."""
    bodies: dict[str, str] = dict(
        template.run(
            "select proname, pg_get_functiondef(oid) from pg_proc where pronamespace = 'pipeline'::regnamespace"
        )
    )
    in_public = template.run("select relname from pg_class where relnamespace = 'public'::regnamespace")
    named = re.compile(rf"\b(?:public\.|{'|'.join(name for (name,) in in_public)})\b")
    called: set[str] = set()
    new = {name for file in PUBLISH_FILES for name in re.findall(r"pipeline\.(\w+)\(", file.read_text())}
    while new:
        called |= new
        new = {name for caller in new for name in re.findall(r"pipeline\.(\w+)\(", bodies[caller])} - called
    assert {"publish_load", "open_staged", "verify_load", "reject"} <= called
    assert {name: found for name in called if (found := named.findall(bodies[name]))} == {}


def test_no_source_is_named_where_all_are_meant(template: Database) -> None:
    """Only the rows of the migrations, and what is of one source alone, name it: its SQL, its DAG, the features."""
    names = template.run(
        "select table_name from pipeline.sources union select unnest(derived_tables) from pipeline.sources"
    )
    named = re.compile(rf"""['"]({"|".join(name for (name,) in names)})['"]""")
    of_one = {"0105_customer_tables.sql", "0106_sales_tables.sql", "0107_features.sql"}
    of_one |= {"sample_data.py", "preview.py", "examples.py"}
    for pattern in ("sql/loads/*", "sql/maintenance/*", "alembic/versions/*.sql", "dags/company_data/*.py", "plugins/*",
                    "embedded/*.py", "services/*.py", "examples/report.py"):  # fmt: skip
        for file in ROOT.glob(pattern):
            # Every month is checked against the list of stores.
            text = file.read_text().replace('task_id="stage_stores")("stores")', "") if file.is_file() else ""
            assert file.name in of_one or named.findall(text) == [], file


def test_the_revisions_are_numbered_in_one_line_and_say_why_which_locks_they_take_and_how_they_are_undone() -> None:
    revisions = list(ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions())[::-1]
    numbers = [f"{number:04}" for number in range(101, 101 + len(revisions))]
    assert [(each.revision, each.down_revision) for each in revisions] == list(
        zip(numbers, [None, *numbers[:-1]], strict=True)
    )
    for revision in revisions:
        assert re.fullmatch(rf"{revision.revision}_[a-z0-9_]+\.py", Path(revision.path).name)
        title, _, rest = (revision.module.__doc__ or "").partition("\n\n")
        assert re.fullmatch(r"[^\n]+\.", title), revision
        said = dict(re.findall(r"^(\w+):\s+((?:.|\n(?=\s))+)", rest, re.MULTILINE))
        assert list(said) == ["Why", "Locks", "Undo"], revision
        assert all(text.rstrip().endswith(".") for text in said.values()), revision
