"""CSV files good and bad: what loads, what is rejected with its line, column and value, and a fuzz against csv."""

import csv
import io
import os
import random
import re
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from conftest import Database, Files, Rows
from psycopg import sql
from steps import connect, stage_file

from company_data.errors import FileRejected
from company_data.staging import END_OF_COPY, END_OF_COPY_IS_DATA, copy_file

MONTH = "2024-02-01"
SALES = f"sales/{MONTH}/sales.csv"
HEADER = "idx,value,date,store_idx\n"
ROW = "1,1.50,2024-02-01,7\n"

# Seeded, so that a failure can be repeated: RANDOM_SEED and RANDOM_FILES make another or a longer search.
SEED = int(os.environ.get("RANDOM_SEED", "20240201"))
FUZZED_FILES = int(os.environ.get("RANDOM_FILES", "4000"))


def stage_sales(database: Database, files: Files, content: str | bytes) -> Rows:
    files.write(SALES, content)
    load = stage_file(database, SALES, "sales", MONTH)
    return database.run(f"select idx, value::text, date::text, store_idx from staging.sales_{load} order by idx")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "line 1: there is no header"),
        ("\n", "line 1: there is no header"),
        (b"\xef\xbb\xbf", "line 1: there is no header"),
        (
            "idx,value,date\n",
            'line 1: the header lacks "store_idx" (it should name "idx", "value", "date", "store_idx"',
        ),
        ("idx,value,date,store_idx,note\n", 'line 1: the header has "note", which the table does not have'),
        ("idx,value,date,store_idx,idx\n", 'line 1: the header repeats "idx"'),
        ("a;b\n", 'lacks "idx", "value", "date", "store_idx"; has "a;b"'),
        ('idx,value,date,"store_idx""; drop table public.sales; --"\n', "the header lacks"),
        ("idx,value,date,store_idx,sale_month\n", 'has "sale_month"'),
        (b"idx,value,date,store_idx\xff\n", "line 1: the header cannot be read"),
        ('"idx,value,date,store_idx\n1,1,2024-02-01,7\n', "line 1: the header cannot be read"),
        ("x" * 70_000, "line 1: the first record does not end"),
        ("<html>", "line 1: this is not CSV but HTML or XML"),
        (HEADER + ROW + "abc,1,2024-02-01,7\n", 'line 3, column idx: invalid input syntax for type integer: "abc"'),
        (HEADER + "1.5,1,2024-02-01,7\n", 'line 2, column idx: invalid input syntax for type integer: "1.5"'),
        (HEADER + "99999999999,1,2024-02-01,7\n", 'line 2, column idx: value "99999999999" is out of range'),
        (HEADER + "1,,2024-02-01,7\n", 'line 2, column value: null value in column "value"'),
        (HEADER + "1,1,2024-02-30,7\n", 'line 2, column date: date/time field value out of range: "2024-02-30"'),
        (HEADER + "1,1,02/03/2024,7\n", 'line 2, column date: date/time field value out of range: "02/03/2024"'),
        (HEADER + ROW + ROW + "1,1\n", 'line 4: missing data for column "date" (found "1,1")'),
        (HEADER + ROW + "\n" + ROW, 'line 3: missing data for column "value" (found "")'),
        (HEADER + "1,1,2024-02-01,7,8\n", 'line 2: extra data after last expected column (found "1,1,2024-02-01,7,8")'),
        (
            HEADER + ROW + '2,"1,2024-02-01,7\n' + ROW,
            "line 3, column value: a quote opens here and never closes, before",
        ),
        (HEADER + '2,1"5,2024-02-01,7\n', "line 2, column value: a quote is inside a value"),
        (
            HEADER + '2,"1"5,2024-02-01,7\n',
            "line 2, column value: a quoted value goes on after its closing quote, with",
        ),
        (HEADER + ROW + "2,1\0,2024-02-01,7\n", 'line 3, column value: a NUL byte is not text, after "2,1"'),
        (
            HEADER.encode() + b"2,\xff,2024-02-01,7\n",
            'line 2, column value: the bytes ff are invalid UTF-8, after "2,"',
        ),
        (HEADER.encode() + b"2,1,2024-02-01,\xc3", "line 2, column store_idx: the file ends in the middle of a UTF-8"),
        (HEADER.replace("\n", "\r\n") + ROW + ROW, "line 2: unquoted newline found in data"),
        (HEADER + ROW + "\\.\n" + ROW, "line 3"),
        ((HEADER + ROW + "2,1\0,2024-02-01,7\n").replace("\n", "\r"), "line 3, column value: a NUL byte is not text"),
        ("idx,value\0\n", "line 1: the header has a NUL byte"),
    ],
)
def test_a_bad_file_is_rejected_with_its_line_column_and_value(
    content: str | bytes, problem: str, database: Database, files: Files
) -> None:
    with pytest.raises(FileRejected) as rejection:
        stage_sales(database, files, content)
    message = str(rejection.value)
    assert problem in message
    assert SALES in message
    assert "clear this run" in message
    assert database.run("select relname from pg_class where relname = 'sales_1'") == []
    assert database.run("select to_regclass('public.sales') is not null") == [(True,)]


def test_a_quote_that_never_closes_is_rejected_before_the_whole_file_is_read(database: Database, files: Files) -> None:
    with pytest.raises(
        FileRejected, match=r"(?s)line 2, column value: a quote opens .* goes on for more than 1,048,576"
    ):
        stage_sales(database, files, HEADER + '1,"1,2024-02-01,7\n' + ROW * 200_000)


@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROW,
        HEADER + ROW.rstrip(),
        HEADER + ROW + "\n",
        HEADER + ROW + "\n\n\r\n",
        (HEADER + ROW).replace("\n", "\r\n"),
        (HEADER + ROW).replace("\n", "\r"),
        b"\xef\xbb\xbf" + (HEADER + ROW).encode(),
        b"\xef\xbb\xbf" + b'"idx","value","date","store_idx"\r\n"1","1.50","2024-02-01","7"\r\n',
        "store_idx,date,value,idx\n7,2024-02-01,1.50,1\n",
    ],
)
def test_a_file_that_is_written_differently_loads_the_same_row(
    content: str | bytes, database: Database, files: Files
) -> None:
    assert stage_sales(database, files, content) == [(1, "1.50", "2024-02-01", 7)]


def test_quoted_separators_line_ends_and_quotes_load_as_they_are(database: Database, files: Files) -> None:
    text = 'idx,attr_a,attr_b,attr_c\n1,2,"a,b","c\r\nd"\n2,3,"""","\\."\n3,4,,""\n"4","","",""\n'
    files.write("customer_profiles.csv", text)
    load = stage_file(database, "customer_profiles.csv", "customer_profiles")
    assert database.run(f"select * from staging.customer_profiles_{load} order by idx") == [
        (1, 2, "a,b", "c\r\nd"),
        (2, 3, '"', "\\."),
        (3, 4, None, ""),
        (4, None, "", ""),
    ]


def test_a_header_without_rows_is_an_empty_file(database: Database, files: Files) -> None:
    assert stage_sales(database, files, HEADER) == []
    assert stage_sales(database, files, HEADER.rstrip()) == []


def make_text(chance: random.Random) -> str:
    """A CSV file as some program might write it, now and then broken."""
    alphabet = ["a", "b", ",", '"', "\n", "\r", "\r\n", " ", "ł", "\\.", "\\", "'", "é", "1", "\t", ""]
    line_end = chance.choice(["\n", "\r\n"])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=line_end, quoting=chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    columns = ["idx", "attr_a", "attr_b", "attr_c"]
    chance.shuffle(columns)
    writer.writerow(columns)
    for number in range(chance.randrange(6)):
        values = {name: "".join(chance.choices(alphabet, k=chance.randrange(5))) for name in ("attr_b", "attr_c")}
        values |= {"idx": str(number), "attr_a": str(chance.randrange(100))}
        writer.writerow([values[name] for name in columns])
    text = chance.choice(["", "", "\ufeff"]) + out.getvalue()
    if chance.random() < 0.2:
        text = text.rstrip("\r\n")
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        start = chance.randrange(len(text) + 1)
        text = text[:start] + chance.choice([*alphabet, "\0"]) + text[start + chance.randrange(2) :]
    return text


def read_by_csv(text: str) -> Rows | None:
    """The rows as Python's csv module reads them, in the columns' order; None where they do not fit the table."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True) if line]
    except csv.Error:
        return None
    if not lines or sorted(lines[0]) != ["attr_a", "attr_b", "attr_c", "idx"] or any(len(line) != 4 for line in lines):
        return None
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    try:
        return [(int(row["idx"]), int(row["attr_a"] or 0), row["attr_b"], row["attr_c"]) for row in rows]
    except ValueError:
        return None


def is_plain(text: str) -> bool:
    """Whether no value holds a quote unless it is quoted itself, and all lines end alike: what RFC 4180 asks for."""
    bare = re.sub(r'(?:(?<=^)|(?<=[,\r\n]))"(?:[^"]|"")*"(?=[,\r\n]|$)', "", text.removeprefix("\ufeff"))
    ends = set(re.findall(r"\r\n|\r|\n", bare.rstrip("\r\n")))
    return '"' not in bare and "\0" not in text and len(ends) < 2


def test_what_is_loaded_is_what_the_csv_module_reads(database: Database) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    loaded = rejected = 0
    with connect(database) as connection:
        connection.execute("select pipeline.begin_load('customer_profiles', null, 'fuzz', 'fuzz')")
        for number in range(FUZZED_FILES):
            text = make_text(chance)
            expected = read_by_csv(text)
            found = load(connection, text, chance)
            if found is None:
                rejected += 1
                # A blank line between rows, which the csv module leaves out, is a row that is too short.
                blank = re.search(r"(?:^\ufeff?|[\r\n])[\r\n]+[^\r\n]", text.replace("\r\n", "\n"))
                # Up to PostgreSQL 17 a line of \\. would end the COPY, and is rejected even between quotes.
                end = connection.info.server_version < END_OF_COPY_IS_DATA and END_OF_COPY.search(
                    f"\n{text}\n".encode()
                )
                assert expected is None or not is_plain(text) or blank or end, (number, text)
            else:
                loaded += 1
                assert expected is not None, (number, text)
                assert sorted(found) == sorted(expected), (number, text)
    print(f"{FUZZED_FILES} files, {loaded} loaded, {rejected} rejected")
    assert loaded > FUZZED_FILES / 3
    assert rejected > FUZZED_FILES / 20


TABLE = sql.Identifier("staging", "customer_profiles_1")


def load(connection: psycopg.Connection[Any], text: str, chance: random.Random) -> Rows | None:
    """The rows as they are staged, the text coming in pieces cut anywhere; None where the file is rejected."""
    content = text.encode()
    cuts = sorted(chance.sample(range(len(content) + 1), k=min(chance.randrange(4), len(content))))
    pieces = [content[start:end] for start, end in pairwise([0, *cuts, len(content)])]
    try:
        with connection.transaction():
            copy_file(connection, TABLE, iter(pieces), "customer_profiles.csv")
    except FileRejected:
        return None
    rows: Rows = connection.execute("""
        select idx, coalesce(attr_a, 0), coalesce(attr_b, ''), coalesce(attr_c, '') from staging.customer_profiles_1
    """).fetchall()
    return rows
