"""CSV files good and bad: what loads, what is rejected with its line, column and value.

Two fuzz tests compare what is loaded with what Python reads: the rows with csv, the values with int, Decimal, float and
date.fromisoformat.
"""

import bz2
import csv
import gzip
import hashlib
import io
import itertools
import lzma
import os
import random
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import psycopg
import pytest
from conftest import Database, Files, Rows
from psycopg import sql
from support.steps import connect, csv_text, stage_file

from company_data.errors import FileRejected, shown
from company_data.staging import copy_file

MONTH = "2024-02-01"
SALES = f"sales/{MONTH}/sales.csv"
HEADER = "idx,value,date,store_idx\n"
ROW = "1,1.50,2024-02-01,7\n"

# Seeded, so that a failure can be repeated: RANDOM_SEED and RANDOM_FILES make another or a longer search.
SEED = int(os.environ.get("RANDOM_SEED", "20240201"))
FUZZED_FILES = int(os.environ.get("RANDOM_FILES", "4000"))
FUZZED_FILES_OF_VALUES = FUZZED_FILES // 8


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
        (HEADER + ROW + "abc,1,2024-02-01,7\n", 'line 3, column idx: "abc" is not an integer: digits, with or without'),
        (HEADER + "1.5,1,2024-02-01,7\n", 'line 2, column idx: "1.5" is not an integer'),
        (HEADER + "99999999999,1,2024-02-01,7\n", 'line 2, column idx: value "99999999999" is out of range'),
        (HEADER + "1,,2024-02-01,7\n", 'line 2, column value: null value in column "value"'),
        (HEADER + "1,1,2024-02-30,7\n", 'line 2, column date: date/time field value out of range: "2024-02-30"'),
        (HEADER + "1,1,02/03/2024,7\n", 'line 2, column date: "02/03/2024" is not a date: YYYY-MM-DD, YYYY/MM/DD,'),
        (HEADER + "1,1,2024-02-30,7\nx,1,2024-02-01,7\n", "line 2, column date: date/time field value out of range"),
        (HEADER + "x,1,2024-02-01,7\n1,1,2024-02-30,7\n", 'line 2, column idx: "x" is not an integer'),
        (HEADER + "1,1,2024-02-01,7\n" * 2 + ",1,2024-02-01,x\n", 'line 4, column store_idx: "x" is not an integer'),
        (HEADER + '1,"1\n\n",2024-02-01,7\n', r'line 2, column value: "1\n\n" is not a decimal number'),
        (HEADER + ROW * 30_000 + "x,1,2024-02-01,7\n", 'line 30002, column idx: "x" is not an integer'),
        (
            HEADER + "1,1,2024-02-01 00:00:00,7\n1,1,2024-02-01 10:00:00,7\n",
            'line 3, column date: "2024-02-01 10:00:00"',
        ),
        (HEADER + "1" * 5000 + ",1,2024-02-01,7\n", f'value "{"1" * 193}… (found'),
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
        (HEADER.encode() + b"2,1,2024-02-01,\xc3", "line 2, column store_idx: the bytes c3 are invalid UTF-8, after"),
        (HEADER.replace("\n", "\r\n") + ROW + ROW, "line 2: the line ends with LF and the header with CR LF (found"),
        (HEADER + ROW + ROW.replace("\n", "\r\n") + ROW, "line 3: the line ends with CR LF and the header with LF"),
        (HEADER.replace("\n", "\r") + ROW + ROW, "line 2: the line ends with LF and the header with CR (found"),
        (HEADER + "1,1,2024-02-01," + "7" * (1 << 21), "store_idx: the row goes on for more than 1,048,576 bytes"),
        (HEADER + ROW + "\\.\n" + ROW, "line 3"),
        ((HEADER + ROW + "2,1\0,2024-02-01,7\n").replace("\n", "\r"), "line 3, column value: a NUL byte is not text"),
        ("idx,value\0\n", "line 1: the header has a NUL byte"),
        ("\ufeff\ufeff" + HEADER, r'the header lacks "idx"; has "\ufeffidx"'),
        ("idx,value,\u200bdate,store_idx\xa0\n", r'lacks "date", "store_idx"; has "\u200bdate", "store_idx\xa0"'),
        ("idx,value,date\t,store_\u3164idx\n", r'has "date\t", "store_\u3164idx"'),
        (HEADER + "1\xa0,1,2024-02-01,7\n", r'column idx: "1\xa0" is not an integer'),
        (HEADER + "1,1,2024-02-01\u200b,7\n", r'column date: "2024-02-01\u200b" is not a date'),
        (HEADER + "1,\x1b1,2024-02-01,7\n", r'column value: "\x1b1" is not a decimal number'),
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


def test_a_wrong_row_is_found_after_many_rows_that_all_look_different(database: Database, files: Files) -> None:
    names = ["".join(name) for name in itertools.product("abcdefghijklm", repeat=4)]
    files.write("stores.csv", csv_text("idx,location", list(enumerate(names))) + "1_0,Porto\n")
    with pytest.raises(FileRejected, match=f'line {len(names) + 2}, column idx: "1_0" is not an integer'):
        stage_file(database, "stores.csv", "stores")


@pytest.mark.parametrize(
    "day",
    ["2024-02-29", "2024/02/29", "20240229", "2024-02-29T00:00:00", "2024-02-29 00:00:00", "2024-02-29 00:00:00.000"],
)
def test_each_way_to_write_a_date_is_the_same_day_whatever_the_date_style(day: str, database: Database) -> None:
    with connect(database) as connection:
        connection.execute(f"select pipeline.begin_load('sales', '{MONTH}', 'x', 'x', 'x')")
        for style in DATE_STYLES:
            connection.execute("select set_config('datestyle', %s, false)", [style])
            text = f'{HEADER}1,1,{day},7\n2,1,"{day}",7\n'
            rows = load(connection, text, random.Random(SEED), ("staging.sales_1", "idx, date"))  # noqa: S311 - no secret
            assert rows == [(1, date(2024, 2, 29)), (2, date(2024, 2, 29))]


def archive(text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("sales.csv", text)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (gzip.compress(HEADER.encode()), "a file compressed with gzip, which begins with"),
        (bz2.compress(HEADER.encode()), "a file compressed with bzip2, xz, zstd or 7z"),
        (lzma.compress(HEADER.encode()), "a file compressed with bzip2, xz, zstd or 7z"),
        (archive(HEADER), "a zip archive or an Excel workbook"),
        (b"PAR1\x15\x04\x15\x10", "Parquet"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), "an Excel workbook"),
        (HEADER.encode("utf-16"), "text in UTF-16 or UTF-32"),
        (HEADER.encode("utf-16-le"), "text in UTF-16 or UTF-32"),
        (HEADER.encode("utf-16-be"), "text in UTF-16 or UTF-32"),
        (HEADER.encode("utf-32"), "text in UTF-16 or UTF-32"),
        (b"\xef\xbb\xbf<?xml", "HTML or XML"),
    ],
    ids=["gzip", "bzip2", "xz", "zip", "Parquet", "xls", "UTF-16", "UTF-16LE", "UTF-16BE", "UTF-32", "XML"],
)
def test_a_file_of_another_format_is_named(content: bytes, named: str, database: Database, files: Files) -> None:
    with pytest.raises(FileRejected, match=f"line 1: this is not CSV but {named}"):
        stage_sales(database, files, content)


def test_a_message_shows_what_is_invisible() -> None:
    # Control, no-break space, zero-width, soft hyphen, direction, byte order mark, Hangul filler, variation, surrogate.
    for hidden in "\0\t\n\x7f\x85\xa0\u00ad\u2003\u200b\u200d\u202e\u2060\u2800\u3164\ufe0f\ufeff\udcff\U000e0001":
        assert shown(f"a{hidden}b") == f"a{hidden.encode('unicode_escape').decode()}b"
    assert shown("ł Ö 日本 e\u0301 😀 ~") == "ł Ö 日本 e\u0301 😀 ~"
    assert shown(b"a\xff\xc5\x82") == r"a\xffł"
    assert shown("ab" * 40) == "ab" * 30 + "…"
    assert shown("ł".encode() * 60) == "ł" * 60


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
    read = [
        (read_integer(row["idx"]), read_integer(row["attr_a"] or "0"), row["attr_b"], row["attr_c"]) for row in rows
    ]
    return None if any(number is None for row in read for number in row[:2]) else read


def is_plain(text: str) -> bool:
    """Whether no value holds a quote unless it is quoted itself, and all lines end alike: what RFC 4180 asks for."""
    bare = re.sub(r'(?:(?<=^)|(?<=[,\r\n]))"(?:[^"]|"")*"(?=[,\r\n]|$)', "", text.removeprefix("\ufeff"))
    ends = set(re.findall(r"\r\n|\r|\n", bare.rstrip("\r\n")))
    return '"' not in bare and "\0" not in text and len(ends) < 2


def has_end_of_copy(text: str) -> bool:
    r"""Whether a line is only \\., which ends a COPY up to PostgreSQL 17, even between quotes."""
    return r"\." in re.split("[\r\n]", text)


@pytest.mark.slow
def test_what_is_loaded_is_what_the_csv_module_reads(database: Database) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    statuses = Outcomes()
    with connect(database) as connection:
        connection.execute("select pipeline.begin_load('customer_profiles', null, 'fuzz', 'fuzz', 'fuzz')")
        for number in range(FUZZED_FILES):
            text = make_text(chance)
            expected = read_by_csv(text)
            found = load(connection, text, chance)
            statuses.add(found)
            if isinstance(found, str):
                # A blank line between rows, which the csv module leaves out, is a row that is too short.
                blank = re.search(r"(?:^\ufeff?|[\r\n])[\r\n]+[^\r\n]", text.replace("\r\n", "\n"))
                assert expected is None or not is_plain(text) or blank or has_end_of_copy(text), (number, text)
            else:
                assert expected is not None, (number, text)
                assert not has_end_of_copy(text)
                assert sorted(found) == sorted(expected), (number, text)
    statuses.require()


class Outcomes:
    """Counts the files of a fuzz test. Servers that agree print the same hash."""

    def __init__(self) -> None:
        self.loaded = self.rejected = 0
        self.hash = hashlib.sha256()

    def add(self, found: Rows | str) -> None:
        is_rejected = isinstance(found, str)
        self.rejected += is_rejected
        self.loaded += not is_rejected
        self.hash.update(repr(found if is_rejected else sorted(found)).encode())

    def require(self) -> None:
        files = self.loaded + self.rejected
        print(f"RANDOM_SEED={SEED}: {files} files, {self.loaded} loaded, {self.hash.hexdigest()[:16]}")
        assert files / 3 < self.loaded < files * 19 / 20


PROFILES = ("staging.customer_profiles_1", "idx, coalesce(attr_a, 0), coalesce(attr_b, ''), coalesce(attr_c, '')")


def load(
    connection: psycopg.Connection[Any], text: str, chance: random.Random, table: tuple[str, str] = PROFILES
) -> Rows | str:
    """The rows as they are staged, the text coming in pieces cut anywhere; or why the file is rejected."""
    content = text.encode()
    cuts = sorted(chance.sample(range(len(content) + 1), k=min(chance.randrange(4), len(content))))
    pieces = [content[start:end] for start, end in itertools.pairwise([0, *cuts, len(content)])]
    name, columns = table
    rows: Rows = []
    try:
        with connection.transaction() as transaction:
            # COPY can freeze the rows of a table that is new or was emptied in its transaction.
            if name.endswith("_1"):
                connection.execute("select pipeline.create_staged(1)")
            else:
                connection.execute(f"truncate {name}".encode())
            copy_file(connection, sql.Identifier(*name.split(".")), iter(pieces), "file.csv")
            rows = connection.execute(f"select {columns} from {name}").fetchall()
            raise psycopg.Rollback(transaction)
    except FileRejected as error:
        return str(error)
    return rows


# What other readers take for a number or a date. No column of any table accepts one of them.
NOT_NUMBERS = [
    *"""
    NaN nan Infinity -inf inf +Infinity 1_000 1_2 0x1A 0b11 0o17 0x1p3 1,5 1.000,00 1.5.2 1e 1e+ e5 . - + +-1 --1 1-
    (1) $1 1% 1f 1L ½ ² ١٢ \N{FULLWIDTH DIGIT ONE} \N{MINUS SIGN}1 1e1000 1e100000 1e-100000 true null NULL N/A \\N ?
    """.split(),  # noqa: SIM905 - a list would take a line for each
    *(" 1", "1 ", "1\t", "1\n", "1\xa0", " ", "1 000", "\ufeff1", "1\u200b", "'1", "- 1", "1;5"),
]
NOT_INTEGERS = ["1.0", "1.", "1.5", "1e3", "1E0", ".5"]
NOT_DATES = [
    *"""
    31/12/21 31-DEC-21 12/31/2021 31.12.2021 2021-DEC-31 2021.12.31 21-12-31 211231 2021-1-2 2021/1/2 2021-365 2021.365
    2021365 J2459580 2021-W52-5 20211231T000000 today now tomorrow yesterday epoch infinity -infinity allballs NaN
    2020-02-29T24:00:00 2020-02-29T12:00:00 2020-02-29T00:00:00Z 2020-02-29T00:00:00+00 2020-02-29T00:00:00.001
    2020-02-29T00:00 2020-02-29t00:00:00 2020-02-29Z 2020/02/29T00:00:00 2020-02/29 2020/02-29 12020-02-29 +2020-02-29
    -2020-02-29 2020-02-29-01 44561 1577836800 0 ٢٠٢٠-02-29 2020-02-2\N{FULLWIDTH DIGIT NINE}
    2020\N{HYPHEN}02\N{HYPHEN}29
    """.split(),  # noqa: SIM905 - a list would take a line for each
    *("2020-02-29 24:00:00", "2020-02-29 13:00:00", "2020-02-29 00:00:00+01", "2020-02-29 00:00:00 UTC"),
    *("2020-02-29 00:00:00.", "2020-02-29  00:00:00", "2020-02-29 BC", "Feb 29 2020", "29 February 2020"),
    *(" 2020-02-29", "2020-02-29 ", "2020-02-29\n", "2020-02-29\u200b", "2020 02 29"),
]
WRONG = {
    "integer": [*NOT_NUMBERS, *NOT_INTEGERS],
    "numeric": NOT_NUMBERS,
    "double precision": NOT_NUMBERS,
    "date": NOT_DATES,
}
RIGHT = {"integer": "1", "numeric": "1", "double precision": "1", "date": MONTH, "text": "a"}
DATE_STYLES = ("ISO, YMD", "ISO, DMY", "SQL, MDY", "German, DMY", "Postgres, MDY")


@pytest.mark.parametrize("table", ["customer_profiles", "customer_activity", "labels", "stores", "sales"])
def test_a_value_that_is_spelt_otherwise_is_rejected_in_every_column(table: str, database: Database) -> None:
    columns: dict[str, str] = dict(
        database.run(f"""
            select attname, format_type(atttypid, atttypmod)
            from pg_attribute
            where attrelid = 'public.{table}'::regclass and attnum > 0
        """)
    )
    month = f"'{MONTH}'" if table == "sales" else "null"
    chance = random.Random(SEED)  # noqa: S311 - no secret
    good = {name: RIGHT[type_name] for name, type_name in columns.items()}
    with connect(database) as connection:
        connection.execute(f"select pipeline.begin_load('{table}', {month}, 'x', 'x', 'x')")
        for number, (name, wrong) in enumerate(
            (name, wrong) for name, type_name in columns.items() for wrong in WRONG.get(type_name, [])
        ):
            connection.execute("select set_config('datestyle', %s, false)", [DATE_STYLES[number % len(DATE_STYLES)]])
            text = write_csv(columns, [good, good | {name: wrong}, good])
            found = load(connection, text, chance, (f"staging.{table}_1", "*"))
            assert f'file.csv, line 3, column {name}: "{shown(wrong)}" is not a' in str(found)


def write_csv(
    columns: Mapping[str, object], rows: Sequence[Mapping[str, str]], quoting: Any = csv.QUOTE_MINIMAL
) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=quoting)
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    return out.getvalue()


def test_a_column_whose_type_has_no_grammar_is_rejected(database: Database, files: Files) -> None:
    # numeric(10,1) would round 1.55 without an error.
    database.run("alter table staging.sales alter value type numeric(10, 1)")
    with pytest.raises(
        FileRejected, match=r"line 1: value has type numeric\(10,1\), which .*values.py does not describe"
    ):
        stage_sales(database, files, HEADER + "1,1.55,2024-02-01,7\n")


def read_integer(text: str, bits: int = 32) -> int | None:
    if not set(text) <= set("+-0123456789"):
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None


def read_decimal(text: str) -> Decimal | None:
    exponent = text.lower().partition("e")[2].lstrip("+-")
    if not set(text) <= set("+-.0123456789eE") or len(exponent) > 3:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def read_float(text: str) -> float | None:
    """The nearest number of double precision; none is infinite, and none is 0 unless the text is."""
    exact = read_decimal(text)
    if exact is None:
        return None
    nearest = float(text)
    return nearest if abs(nearest) != float("inf") and (nearest == 0) == (exact == 0) else None


def read_date(text: str) -> date | None:
    if not set(text) <= set("0123456789-/T :."):
        return None
    day, time = text[:10], text[10:]
    if re.sub(r"\.0+$", "", time) not in ("", "T00:00:00", " 00:00:00") or (time and "-" not in day):
        return None
    if day.count("/") == 2 and "-" not in day:
        day = day.replace("/", "-")
    try:
        return date.fromisoformat(day)
    except ValueError:
        return None


def read_text(text: str) -> str | None:
    return None if "\0" in text else text


# The columns of the table below, each with its type in PostgreSQL and what Python reads.
READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "small": ("smallint", lambda text: read_integer(text, 16)),
    "whole": ("integer", read_integer),
    "big": ("bigint", lambda text: read_integer(text, 64)),
    "amount": ("numeric", read_decimal),
    "measure": ("double precision", read_float),
    "day": ("date", read_date),
    "words": ("text", read_text),
}


def make_value(chance: random.Random, column: str) -> str:
    """A value as some program might write it: of its type, at its limits, or broken."""
    kind = chance.random()
    if column == "words":
        return "".join(chance.choices("aé日 \\.'\u200b\xa0,\"\t1", k=chance.randrange(6)))
    if column == "day":
        day = date(1, 1, 1) + timedelta(days=chance.randrange(3_652_059))
        forms = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%Y-%m-%dT00:00:00", "%Y-%m-%d 00:00:00", "%Y-%m-%d 00:00:00.000")
        year = f"{day.year:04}"  # %Y does not pad on Linux
        text = day.strftime(chance.choice(forms).replace("%Y", year))
        if kind < 0.02:
            text = chance.choice(NOT_DATES)
        elif kind < 0.04:  # no day of the calendar
            text = chance.choice(["2023-02-29", "2020-13-01", "2020-00-10", "0000-01-01", "1900/02/29", "20210431"])
        elif kind < 0.05:
            text = day.strftime(chance.choice(["%d-%m-%Y", "%d/%m/%y", "%y-%m-%d", "%m/%d/%Y", "%j", "%d-%b-%y"]))
    else:
        bits = {"small": 16, "whole": 32}.get(column, 64)
        digits = str(chance.randrange(10 ** chance.randrange(1, 5 if bits == 16 else 10)))
        text = chance.choice(["", "", "-", "+"]) + chance.choice(["", "", "0", "00"]) + digits
        if column in ("amount", "measure"):
            text += chance.choice(["", ".", ".5", f".{chance.randrange(10**17)}"])
            text += chance.choice(["", "", "e5", "E-7", "e+3", "e-17"])
            if kind < 0.04:
                text = chance.choice(["1e308", "-1e309", "1e999", "1e-323", "4e-324", "1e-400", "0e999", ".5", "5e-1"])
        elif kind < 0.04:
            text = str(chance.choice([-1, 1]) * 2 ** (bits - 1) + chance.randrange(-1, 2))
        if kind > 0.98:
            text = chance.choice(NOT_NUMBERS + NOT_INTEGERS)
    if 0.1 < kind < 0.12:
        start = chance.randrange(len(text) + 1)
        inserted = chance.choice(
            [*'0123456789+-./:eET_xXnZ ,"\t\0', "\xa0", "\u200b", "٣", "\N{FULLWIDTH DIGIT THREE}"]
        )
        text = text[:start] + inserted + text[start + chance.randrange(2) :]
    return text


def test_values_are_loaded_as_python_reads_them_or_rejected(database: Database) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    statuses = Outcomes()
    declared = ", ".join(f"{name} {type_name}" for name, (type_name, _) in READERS.items())
    database.run(f"create table staging.every_type ({declared})")
    database.run("grant select, insert, truncate on staging.every_type to pipeline")
    with connect(database) as connection:
        for number in range(FUZZED_FILES_OF_VALUES):
            connection.execute("select set_config('datestyle', %s, false)", [chance.choice(DATE_STYLES)])
            columns = dict.fromkeys(chance.sample(list(READERS), len(READERS)))
            rows = [{name: make_value(chance, name) for name in columns} for _ in range(chance.randrange(1, 4))]
            text = write_csv(columns, rows, chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
            found = load(connection, text, chance, ("staging.every_type", ", ".join(READERS)))
            statuses.add(found)
            expected = [[READERS[name][1](row[name]) for name in READERS] for row in rows]
            wrong = [
                (line, name)
                for line, (row, values) in enumerate(zip(rows, expected, strict=True), 2)
                for name, value in zip(READERS, values, strict=True)
                if value is None and row[name]
            ]
            if isinstance(found, str):
                assert wrong, (number, text, found)
                named = {f"file.csv, line {line}, column {name}: " for line, name in wrong if line == wrong[0][0]}
                assert found.startswith(tuple(named)), (number, text, found, wrong)
            else:
                assert not wrong, (number, text, wrong)
                loaded = [[value if value is not None else "" for value in row] for row in found]
                assert loaded == [
                    ["" if not row[name] else value for name, value in zip(READERS, values, strict=True)]
                    for row, values in zip(rows, expected, strict=True)
                ], (number, text)
    statuses.require()
