"""CSV files good and bad: what loads, what is rejected with its line, column and value.

A fuzz test compares what is loaded with what Python's csv module reads.
"""

import csv
import gzip
import io
import itertools
import lzma
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from itertools import product
from typing import Any

import psycopg
import pytest
from conftest import Database, Rows, copied
from psycopg import sql
from support import csv_text
from support.steps import connect

from company_data.csv_files import MAX_ROW_BYTES
from company_data.errors import FileRejected, shown
from company_data.staging import copy_file

MONTH = "2024-02-01"
PATH = f"sales/{MONTH}/sales.csv"
HEADER = csv_text.sales()
ROW = "1,1.50,2024-02-01,7\n"
CHUNK = 1 << 18

# Seeded, so that a failure can be repeated: RANDOM_SEED and RANDOM_FILES make another or a longer search.
SEED = int(os.environ.get("RANDOM_SEED", "20240201"))
FUZZED_FILES = int(os.environ.get("RANDOM_FILES", "400"))
DATE_STYLES = ("ISO, YMD", "ISO, DMY", "SQL, MDY", "German, DMY", "Postgres, MDY")
EVERY_TYPE = {"small": "smallint", "whole": "integer", "big": "bigint", "amount": "numeric"}
EVERY_TYPE |= {"measure": "double precision", "day": "date", "words": "text"}


@pytest.fixture(scope="module")
def connection(template: Database) -> Iterator[psycopg.Connection[Any]]:
    """A session that has begun a load of each file, in a database with a table that has a column of every type."""
    columns = ", ".join(f"{name} {type_name}" for name, type_name in EVERY_TYPE.items())
    with copied(template, "test_csv_files") as database:
        database.run(f"create table staging.every_type ({columns})")
        database.run("create table staging.rounding (value numeric(10, 1))")
        database.run("grant select, insert, truncate on staging.every_type, staging.rounding to pipeline")
        with connect(database) as connection:
            for table in csv_text.HEADERS:
                month = MONTH if table == "sales" else None
                connection.execute("select pipeline.begin_load(%s, %s, 'x', 'x', 'x')", [table, month])
            yield connection


def load(
    connection: psycopg.Connection[Any],
    content: str | bytes,
    table: str = "sales",
    columns: str = "*",
    chance: random.Random | None = None,
) -> Rows | str:
    """The rows as they are staged, or why the file is rejected; by chance, the file comes in pieces cut anywhere."""
    content = content.encode() if isinstance(content, str) else content
    cuts: Sequence[int] = range(CHUNK, len(content), CHUNK)
    if chance:
        cuts = sorted(chance.sample(range(len(content) + 1), k=min(chance.randrange(4), len(content))))
    pieces = [content[start:end] for start, end in itertools.pairwise([0, *cuts, len(content)])]
    rows: Rows = []
    try:
        with connection.transaction() as transaction:
            # COPY can freeze the rows of a table that is new or was emptied in its transaction.
            if table in csv_text.HEADERS:
                number = list(csv_text.HEADERS).index(table) + 1
                connection.execute("select pipeline.create_staged(%s)", [number])
                table = f"{table}_{number}"
            else:
                connection.execute(f"truncate staging.{table}".encode())
            copy_file(connection, sql.Identifier("staging", table), iter(pieces), PATH)
            rows = connection.execute(f"select {columns} from staging.{table}".encode()).fetchall()
            raise psycopg.Rollback(transaction)
    except FileRejected as error:
        return str(error)
    return rows


def test_blank_lines_at_the_end_are_left_out_up_to_64_kib(connection: psycopg.Connection[Any]) -> None:
    assert load(connection, HEADER + ROW + "\n" * 65_535, columns="idx") == [(1,)]
    assert "line 3: missing data" in str(load(connection, HEADER + ROW + "\n" * 65_536))


OTHER_FORMAT = "line 1: this is not CSV but"
CODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "line 1: there is no header"),
        (b"\xef\xbb\xbf\n", "line 1: there is no header"),
        ("value,date,idx\n", 'header lacks "store_idx" (it should name "idx", "value", "date", "store_idx", in any'),
        ("idx,value,date,store_idx,note\n", 'line 1: the header has "note", which the table does not have'),
        ("idx,value,date,store_idx,idx\n", 'line 1: the header repeats "idx"'),
        ("idx,value,\u200bdate,store_idx\xa0\n", r'lacks "date", "store_idx"; has "\u200bdate", "store_idx\xa0"'),
        (b"idx,value,date,store_idx\xff\n", "line 1: the header cannot be read"),
        ('"idx,value,date,store_idx\n1,1,2024-02-01,7\n', "line 1: the header cannot be read"),
        ("idx,value\0\n", "line 1: the header has a NUL byte"),
        ("x" * 70_000, "line 1: the first record does not end"),
        (b"\xef\xbb\xbf<?xml", f"{OTHER_FORMAT} HTML or XML"),
        (gzip.compress(HEADER.encode(), mtime=0), f"{OTHER_FORMAT} a file compressed with gzip, which begins with"),
        (lzma.compress(HEADER.encode()), f"{OTHER_FORMAT} a file compressed with bzip2, xz, zstd or 7z"),
        (b"PK\x03\x04\x14\x00", f"{OTHER_FORMAT} a zip archive or an Excel workbook"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), f"{OTHER_FORMAT} an Excel workbook"),
        (b"PAR1\x15\x04\x15\x10", f"{OTHER_FORMAT} Parquet"),
        *((HEADER.encode(coding), f"{OTHER_FORMAT} text in UTF-16 or UTF-32") for coding in CODINGS),
        (HEADER + ROW + "abc,1,2024-02-01,7\n", 'line 3, column idx: "abc" is not an integer: digits, with or without'),
        (HEADER + "99999999999,1,2024-02-01,7\n", 'line 2, column idx: value "99999999999" is out of range'),
        (HEADER + "1,,2024-02-01,7\n", "column value: there is no value, and each row needs one (found"),
        (HEADER + "1,1,02/03/2024,7\n", 'line 2, column date: "02/03/2024" is not a date: YYYY-MM-DD, YYYY/MM/DD,'),
        (HEADER + "1,1,2024-02-30,7\nx\n", 'line 2, column date: date/time field value out of range: "2024-02-30"'),
        (HEADER + "x,1,2024-02-01,7\n1,1,2024-02-30,7\n", 'line 2, column idx: "x" is not an integer'),
        (HEADER + '1,"1\n\n",2024-02-01,7\n', r'line 2, column value: "1\n\n" is not a decimal number'),
        (HEADER + ROW * 30_000 + "x,1,2024-02-01,7\n", 'line 30002, column idx: "x" is not an integer'),
        (HEADER + "1" * 5000 + ",1,2024-02-01,7\n", f'value "{"1" * 193}… (found'),
        (HEADER + ROW + ROW + "1,1\n", 'line 4: missing data for column "date" (found "1,1")'),
        (HEADER + ROW + "\n" + ROW, 'line 3: missing data for column "value" (found "")'),
        (HEADER + "1,1,2024-02-01,7,8\n", 'line 2: extra data after last expected column (found "1,1,2024-02-01,7,8")'),
        (HEADER + ROW + '2,"1,2024-02-01,7\n' + ROW, "line 3, column value: a quote opens here and never closes"),
        (HEADER + '2,1"5,2024-02-01,7\n', "line 2, column value: a quote is inside a value"),
        (HEADER + '2,"1"5,2024-02-01,7\n', "line 2, column value: a quoted value continues after its closing quote"),
        ((HEADER + ROW + "2,1\0,,\n").replace("\n", "\r"), 'line 3, column value: a NUL byte is not text, after "2,1"'),
        (f"{HEADER}2,".encode() + b"\xff,2024-02-01,7\n", 'column value: the bytes ff are invalid UTF-8, after "2,"'),
        (f"{HEADER}2,1,2024-02-01,".encode() + b"\xc3", "line 2, column store_idx: the bytes c3 are invalid UTF-8"),
        (HEADER.replace("\n", "\r\n") + ROW + ROW, "line 2: the line ends with LF and the header with CR LF (found"),
        (HEADER + ROW + ROW.replace("\n", "\r\n") + ROW, "line 3: the line ends with CR LF and the header with LF"),
        (HEADER + "1,1,2024-02-01," + "7" * (1 << 21), "store_idx: the row has more than 1,048,576 bytes"),
        (HEADER + ROW + "\\.\n" + ROW, "line 3"),
    ],
)
def test_a_bad_file_is_rejected_with_its_line_column_and_value(
    content: str | bytes, problem: str, connection: psycopg.Connection[Any]
) -> None:
    message = str(load(connection, content))
    assert problem in message
    assert message.startswith(f"{PATH}, line ")
    assert "clear this run" in message


def test_a_wrong_row_is_found_after_many_rows_that_all_look_different(connection: psycopg.Connection[Any]) -> None:
    rows = [f"{n},{''.join(name)}" for n, name in enumerate(itertools.product("abcdefghijklm", repeat=4))]
    message = load(connection, csv_text.stores(*rows, "1_0,Porto"), "stores")
    assert f'line {len(rows) + 2}, column idx: "1_0" is not an integer' in message


def test_a_column_whose_type_has_no_grammar_is_rejected(connection: psycopg.Connection[Any]) -> None:
    # 1.55 would be rounded without an error.
    problem = "line 1: value has type numeric(10,1), which dags/company_data/values.py does not describe"
    assert problem in load(connection, "value\n1.55\n", "rounding")


def test_a_message_shows_what_is_invisible() -> None:
    # Control, no-break space, zero-width, soft hyphen, direction, byte order mark, Hangul filler, variation, surrogate.
    for hidden in "\0\t\n\x7f\x85\xa0\u00ad\u2003\u200b\u200d\u202e\u2060\u2800\u3164\ufe0f\ufeff\udcff\U000e0001":
        assert shown(f"a{hidden}b") == f"a{hidden.encode('unicode_escape').decode()}b"
    assert shown("ł Ö 日本 e\u0301 😀 ~") == "ł Ö 日本 e\u0301 😀 ~"
    assert shown(b"a\xff\xc5\x82") == r"a\xffł"
    assert shown("ab" * 40) == "ab" * 30 + "…"
    assert shown("ł".encode() * 60) == "ł" * 60


def test_a_file_may_be_written_in_several_ways_and_be_empty(connection: psycopg.Connection[Any]) -> None:
    for content in (
        HEADER + ROW,
        HEADER + ROW.rstrip(),
        HEADER + ROW + "\n\n\r\n",
        (HEADER + ROW).replace("\n", "\r\n"),
        (HEADER + ROW).replace("\n", "\r"),
        b"\xef\xbb\xbf" + b'"idx","value","date","store_idx"\r\n"1","1.50","2024-02-01","7"\r\n',
        "store_idx,date,value,idx\n7,2024-02-01,1.50,1\n",
    ):
        assert load(connection, content) == [(1, Decimal("1.50"), date(2024, 2, 1), 7)], content
    assert [load(connection, content) for content in (HEADER, HEADER.rstrip())] == [[], []]


def test_quotes_separators_line_ends_and_long_values_load_as_they_are(connection: psycopg.Connection[Any]) -> None:
    long = "x" * (MAX_ROW_BYTES - 100)
    text = csv_text.profiles('1,2,"a,b","c\r\nd"', '2,3,"""","\\."', '3,4,,""', '"4","","",""', f"5,6,,{long}")
    assert load(connection, text, "customer_profiles") == [
        *((1, 2, "a,b", "c\r\nd"), (2, 3, '"', "\\."), (3, 4, None, ""), (4, None, "", ""), (5, 6, None, long))
    ]


def write_csv(columns: Sequence[str], rows: Sequence[Mapping[str, str]], **options: Any) -> str:
    out = io.StringIO()
    writer = csv.writer(out, **{"lineterminator": "\n", **options})
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    return out.getvalue()


def read_integer(text: str) -> int | None:
    number = int(text) if re.fullmatch("[+-]?[0-9]+", text) else 2**31
    return number if -(2**31) <= number < 2**31 else None


def make_text(chance: random.Random) -> str:
    """A CSV file as some program might write it, now and then broken."""
    alphabet = ["a", "b", ",", '"', "\n", "\r", "\r\n", " ", "ł", "\\.", "\\", "'", "é", "1", "\t", ""]
    columns = chance.sample(["idx", "attr_a", "attr_b", "attr_c"], 4)
    rows = [
        {"idx": str(number), "attr_a": str(chance.randrange(100))}
        | {name: "".join(chance.choices(alphabet, k=chance.randrange(5))) for name in ("attr_b", "attr_c")}
        for number in range(chance.randrange(6))
    ]
    quoting = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    text = write_csv(columns, rows, lineterminator=chance.choice(["\n", "\r\n"]), quoting=quoting)
    text = chance.choice(["", "", "\ufeff"]) + text
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


def test_what_is_loaded_is_what_the_csv_module_reads(connection: psycopg.Connection[Any]) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    loaded = 0
    columns = "idx, coalesce(attr_a, 0), coalesce(attr_b, ''), coalesce(attr_c, '')"
    for number in range(FUZZED_FILES):
        text = make_text(chance)
        expected = read_by_csv(text)
        found = load(connection, text, "customer_profiles", columns, chance)
        if isinstance(found, str):
            # A blank line between rows, which the csv module leaves out, is a row that is too short.
            blank = re.search(r"(?:^\ufeff?|[\r\n])[\r\n]+[^\r\n]", text.replace("\r\n", "\n"))
            assert expected is None or not is_plain(text) or blank or has_end_of_copy(text), (number, text)
        else:
            loaded += 1
            assert expected is not None, (number, text)
            assert not has_end_of_copy(text)
            assert sorted(found) == sorted(expected), (number, text)
    print(f"RANDOM_SEED={SEED}: {FUZZED_FILES} files, {loaded} loaded")
    assert FUZZED_FILES / 3 < loaded < FUZZED_FILES * 19 / 20


# What other readers take for a number or a date. No column of any table accepts one of them.
NOT_NUMBERS = [
    *"""
    NaN inf Infinity 1_000 0x1A 0b11 0x1p3 1,5 1.000,00 1.5.2 1e 1e+ e5 . - + +-1 1- (1) $1 1% 1f ½ ² ١٢
    \N{FULLWIDTH DIGIT ONE} \N{MINUS SIGN}1 1e1000 1e-100000 true null N/A \\N ?
    """.split(),  # noqa: SIM905 - a list would take a line for each
    *(" 1", "1 ", "1\t", "1\n", "1\xa0", " ", "1 000", "\ufeff1", "1\u200b", "'1", "- 1", "1;5"),
]
NOT_DATES = [
    *"""
    31/12/21 31-DEC-21 12/31/2021 31.12.2021 2021-DEC-31 2021.12.31 21-12-31 211231 2021-1-2 2021-365 2021.365 2021365
    J2459580 2021-W52-5 today now epoch infinity allballs NaN 20211231T000000 2020-02-29T24:00:00 2020-02-29T12:00:00
    2020-02-29T00:00:00Z 2020-02-29T00:00:00+00 2020-02-29T00:00:00.001 2020-02-29T00:00 2020-02-29t00:00:00 2020-02-29Z
    2020/02/29T00:00:00 2020-02/29 12020-02-29 +2020-02-29 -2020-02-29 2020-02-29-01 44561 0 ٢٠٢٠-02-29
    2020-02-2\N{FULLWIDTH DIGIT NINE} 2020\N{HYPHEN}02\N{HYPHEN}29
    """.split(),  # noqa: SIM905 - a list would take a line for each
    *("2020-02-29 00:00:00 UTC", "2020-02-29 00:00:00.", "2020-02-29  00:00:00", "2020-02-29 BC", "Feb 29 2020"),
    *(" 2020-02-29", "2020-02-29 ", "2020-02-29\n", "2020-02-29\u200b", "2020 02 29"),
]
NOT_INTEGERS = [*NOT_NUMBERS, "1.0", "1.", "1.5", "1e3", ".5"]
WRONG = {"smallint": ["1_0"], "integer": NOT_INTEGERS, "bigint": ["1_0"], "date": NOT_DATES}
WRONG |= {"numeric": NOT_NUMBERS, "double precision": NOT_NUMBERS}


@pytest.mark.parametrize("table", ["every_type", *csv_text.HEADERS])
def test_a_value_that_is_spelt_otherwise_is_rejected_in_every_column(
    table: str, connection: psycopg.Connection[Any]
) -> None:
    columns: dict[str, str] = dict(
        connection.execute(f"""
            select attname, format_type(atttypid, atttypmod)
            from pg_attribute where attrelid = 'staging.{table}'::regclass and attnum > 0
        """).fetchall()
    )
    good = {name: {"date": MONTH, "text": "a"}.get(type_name, "1") for name, type_name in columns.items()}
    # Every spelling in one column of its type, and one of them in each column of the files.
    tried = None if table == "every_type" else 1
    wrong_rows = [(name, wrong) for name, type_name in columns.items() for wrong in WRONG.get(type_name, [])[:tried]]
    for (name, wrong), style in zip(wrong_rows, itertools.cycle(DATE_STYLES)):
        connection.execute("select set_config('datestyle', %s, false)", [style])
        found = load(connection, write_csv(list(columns), [good, good | {name: wrong}, good]), table)
        assert f'line 3, column {name}: "{shown(wrong)}" is not a' in found


# What each type reads, at its limits. PostgreSQL rejects the others, whose digits may be right.
DAYS = ("2024-02-29", "2024/02/29", "20240229", "2024-02-29T00:00:00", "2024-02-29 00:00:00", "2024-02-29 00:00:00.000")
NO_DAYS = ("2023-02-29", "2020-13-01", "2020-00-10", "0000-01-01", "1900/02/29", "20210431")
AMOUNTS = ("1.50", "+01.50", "150e-2", "15.0E-1", ".15e+1", "1.", "0e999", "1e999", "-1e309", "1e-400")
MEASURES = ("1e308", "-5e-1", "1e-323", "4e-324", "0.1", ".1e1", "0e999", "12345678901234567")
READ: dict[str, dict[str, Any]] = {
    **{
        name: {"0": 0, "-0": 0, "+7": 7, "-007": -7, "08": 8}
        | {str(number): number for number in (2 ** (bits - 1) - 1, -(2 ** (bits - 1)))}
        | {str(number): FileRejected for number in (2 ** (bits - 1), -(2 ** (bits - 1)) - 1)}
        for name, bits in (("small", 16), ("whole", 32), ("big", 64))
    },
    "amount": {text: Decimal(text) for text in (*AMOUNTS, f"{10**100 - 1}.{'1' * 100}")}
    | {f"1{'0' * 100}": FileRejected, f".{'1' * 101}": FileRejected},
    "measure": {text: float(text) for text in MEASURES} | dict.fromkeys(("-1e309", "1e999", "1e-400"), FileRejected),
    "day": dict.fromkeys(DAYS, date(2024, 2, 29))
    | {"0001-01-01": date.min, "99991231": date.max}
    | dict.fromkeys(NO_DAYS, FileRejected),
    "words": {text: text for text in ("a b", "日本é", " \\.'", "\u200b\xa0\t", "1")} | {"a\0": FileRejected},
}


@pytest.mark.parametrize("name", READ)
def test_a_value_is_what_its_text_says_whatever_the_date_style_and_quotes(
    name: str, connection: psycopg.Connection[Any]
) -> None:
    values = READ[name] | {"": None}
    for style, (text, value) in product(DATE_STYLES if name == "day" else DATE_STYLES[:1], values.items()):
        connection.execute("select set_config('datestyle', %s, false)", [style])
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            row = dict.fromkeys(EVERY_TYPE, "") | {name: text}
            found = load(connection, write_csv(list(EVERY_TYPE), [row], quoting=quoting), "every_type", name)
            if value is FileRejected:
                assert f"line 2, column {name}: " in found, text
            else:
                expected = "" if (name, text, quoting) == ("words", "", csv.QUOTE_ALL) else value
                assert found == [(expected,)], (text, style)
