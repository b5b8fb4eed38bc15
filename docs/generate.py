"""docs/data_dictionary.md and schema.sql, read from a database that was migrated to head: `make docs`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg

from embedded.postgres import ADMIN, Cluster

ROOT = Path(__file__).resolve().parents[1]
DICTIONARY = ROOT / "docs" / "data_dictionary.md"
SCHEMA = ROOT / "schema.sql"  # not committed

SCHEMA_HEAD = """\
-- What `alembic upgrade head` creates, as pg_dump writes it.

"""

DICTIONARY_HEAD = """\
# Data dictionary

All tables, views and functions of schema `public`. `make docs` writes this page from the comments
in the database; to change a sentence, change its comment in a migration. It also writes the whole
database as SQL to `schema.sql`, which is not committed. For the schemas that readers cannot open,
`admin` sees the comments in psql, for example with `\\d+ pipeline.*`.

A solid line in the diagram is a foreign key. A dotted line is a reference without a foreign key. It
is taken from the end of the column's comment, for example "Store of the sale: stores.idx."
"""

# What readers can open. Partitions are read through their table.
RELATIONS = """
    select oid, relname, relkind = 'v' as is_view, obj_description(oid, 'pg_class')
    from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm') and not relispartition
    order by is_view, relname
"""

COLUMNS = """
    select
        attname,
        format_type(atttypid, atttypmod),
        not attnotnull,
        exists (select from pg_index where indrelid = attrelid and indisprimary and attnum = any (indkey)),
        exists (
            select from pg_index
            where indrelid = attrelid and indisunique and indnkeyatts = 1 and indkey[0] = attnum and indpred is null
        ),
        col_description(attrelid, attnum)
    from pg_attribute
    where attrelid = %s and attnum > 0 and not attisdropped
    order by attnum
"""

# That a column is not null is in its table; PostgreSQL 18 also has a constraint for it.
CONSTRAINTS = """
    select pg_get_constraintdef(oid)
    from pg_constraint
    where conrelid = %s and contype in ('p', 'u', 'c', 'f', 'x')
    order by contype <> 'p', conname
"""

FOREIGN_KEYS = """
    select source.attname, pg_class.relname, target.attname
    from pg_constraint
    join pg_class on pg_class.oid = confrelid
    join pg_attribute as source on source.attrelid = conrelid and source.attnum = conkey[1]
    join pg_attribute as target on target.attrelid = confrelid and target.attnum = confkey[1]
    where conrelid = %s and contype = 'f'
"""

FUNCTIONS = """
    select proname, pg_get_function_arguments(oid), pg_get_function_result(oid), obj_description(oid, 'pg_proc')
    from pg_proc
    where pronamespace = 'public'::regnamespace
    order by proname, 2
"""

REFERENCE = re.compile(r": (\w+)\.(\w+)\.?$")


def snapshot(cluster: Cluster, database: str) -> str:
    """The schema and privileges of a database as SQL, without what differs from one dump to the next.

    Raises:
        subprocess.CalledProcessError: pg_dump failed; its message is in stderr.
    """
    # The schema of Alembic's own table is left out: it is there before the first revision and after the last is undone.
    dumped = _dump(
        cluster, database, "pg_dump", "--schema-only", "--create", "--no-owner", "--exclude-schema=migrations"
    )
    # A title above each object, psql's commands, settings of the session, and the database that is made outside.
    dumped = re.sub(r"^--\n-- .*\n--\n", "", dumped, flags=re.MULTILINE)
    dumped = re.sub(
        r"^(-- Dumped |\\|SET |SELECT pg_catalog\.set_config|CREATE DATABASE ).*\n", "", dumped, flags=re.MULTILINE
    )
    return re.sub(r"\n{3,}", "\n\n", dumped).strip() + "\n"


def roles(cluster: Cluster) -> str:
    """The server's roles but its superuser, with their memberships, as SQL.

    Raises:
        subprocess.CalledProcessError: pg_dumpall failed; its message is in stderr.
    """
    dumped = _dump(cluster, "postgres", "pg_dumpall", "--roles-only", "--no-role-passwords")
    lines = re.findall(r"^(?:CREATE ROLE|ALTER ROLE|GRANT) .*;$", dumped, flags=re.MULTILINE)
    return "".join(f"{line}\n" for line in lines if line.split()[2].rstrip(";") != ADMIN)


def schema_file(cluster: Cluster, database: str) -> str:
    """The schema and the roles as SQL."""
    return f"{SCHEMA_HEAD}{roles(cluster)}\n{snapshot(cluster, database)}"


def dictionary_file(connection: psycopg.Connection[Any]) -> str:
    """What docs/data_dictionary.md has to say of a database that is at head."""
    relations = connection.execute(RELATIONS).fetchall()
    parts = [DICTIONARY_HEAD, *_diagram(connection, relations)]
    for oid, name, is_view, meaning in relations:
        parts.append(f"## {name}{' (view)' if is_view else ''}\n\n{meaning}\n")
        columns = connection.execute(COLUMNS, [oid]).fetchall()
        parts.append(
            _table(
                ("column", "type", "null", "meaning"),
                [
                    (f"`{column}`", f"`{kind}`", "may be" if nullable else "never", text)
                    for column, kind, nullable, _, _, text in columns
                ],
            )
        )
        constraints = connection.execute(CONSTRAINTS, [oid]).fetchall()
        if constraints:
            parts.append("".join(f"- `{definition}`\n" for (definition,) in constraints))
    functions = connection.execute(FUNCTIONS).fetchall()
    parts.append("## Functions\n")
    parts.append(
        _table(
            ("function", "returns", "does"),
            [(f"`{name}({arguments})`", f"`{result}`", text) for name, arguments, result, text in functions],
        )
    )
    return "\n".join(parts)


def _diagram(connection: psycopg.Connection[Any], relations: list[tuple[Any, ...]]) -> list[str]:
    """A mermaid diagram of the tables that refer to each other."""
    tables = {name: connection.execute(COLUMNS, [oid]).fetchall() for oid, name, is_view, _ in relations if not is_view}
    unique = {(name, column[0]) for name, columns in tables.items() for column in columns if column[4]}
    keys = {(name, *key) for oid, name, _, _ in relations for key in connection.execute(FOREIGN_KEYS, [oid]).fetchall()}
    named = {
        (name, column[0], *reference.groups())
        for name, columns in tables.items()
        for column in columns
        if (reference := REFERENCE.search(column[5] or "")) and reference[1] in tables
    }
    nullable = {(name, column[0]) for name, columns in tables.items() for column in columns if column[2]}
    related = {name for relation in keys | named for name in (relation[0], relation[2])}
    lines = ["```mermaid", "erDiagram"]
    for name in sorted(related):
        lines.append(f"    {name} {{")
        for column, kind, _, in_key, _, _ in tables[name]:
            # The diagram's types are single words.
            lines.append(f"        {re.sub(r'[ ,]+', '_', kind)} {column}{' PK' if in_key else ''}")
        lines.append("    }")
    for name, column, other, referred in sorted(keys | named):
        many = "|o" if (name, column) in unique else "}o"
        line = "--" if (name, column, other, referred) in keys else ".."
        one = ("o|" if (name, column) in nullable else "||") if (other, referred) in unique else "o{"
        lines.append(f"    {name} {many}{line}{one} {other} : {column}")
    return ["\n".join([*lines, "```\n"])]


def _table(head: tuple[str, ...], rows: list[tuple[str | None, ...]]) -> str:
    """A Markdown table."""
    cells = [
        head,
        tuple("---" for _ in head),
        *(tuple(" ".join((text or "").replace("|", r"\|").split()) for text in row) for row in rows),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _dump(cluster: Cluster, database: str, program: str, *options: str) -> str:
    return subprocess.run(
        [str(cluster.programs / program), *options, "--dbname", cluster.url(database)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def main() -> None:
    """Migrate a server of its own to head and write both files."""
    with Cluster.temporary() as cluster:
        with cluster.connect("postgres") as connection:
            connection.execute("create database companydata")
        subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            env={**os.environ, "DATABASE_URL": cluster.url("companydata")},
            cwd=ROOT,
            check=True,
        )
        SCHEMA.write_text(schema_file(cluster, "companydata"))
        with cluster.connect("companydata") as connection:
            DICTIONARY.write_text(dictionary_file(connection))


if __name__ == "__main__":
    main()
