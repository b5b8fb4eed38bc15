"""Checks a CSV file on its way to COPY, for what COPY would misread, guess or explain badly.

COPY lets a quote begin in the middle of a value and then reads on over line ends until the next one, which can silently
join two rows into one. RFC 4180 allows a quote only around a whole value, which is what is required here. COPY also
reads many spellings of a number or a date, and not the same in every version: company_data.values has what is allowed.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest

from company_data.errors import FileRejected, shown
from company_data.values import GRAMMARS

BYTE_ORDER_MARK = codecs.BOM_UTF8
MAX_HEADER_BYTES = 1 << 16
MAX_ROW_BYTES = 1 << 20
MAX_BEFORE = 60
MAX_SHAPES, MAX_SHAPE_BYTES = 10_000, 1 << 20
DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)

# Beginnings of files that are not CSV in UTF-8: what they are, and what to do.
FORMATS = (
    (rb"\x1f\x8b", "a file compressed with gzip", "Decompress it, or serve it with Content-Encoding: gzip"),
    (
        rb"BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf",
        "a file compressed with bzip2, xz, zstd or 7z",
        "Decompress it",
    ),
    (rb"PK\x03\x04", "a zip archive or an Excel workbook", "Extract it, or save the sheet as CSV in UTF-8"),
    (rb"\xd0\xcf\x11\xe0", "an Excel workbook", "Save the sheet as CSV in UTF-8"),
    (rb"PAR1", "Parquet", "Export it as CSV in UTF-8"),
    (rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|(?:\0[^\0]){2}|\0\0\xfe\xff", "text in UTF-16 or UTF-32", "Save it in UTF-8"),
    (rb"(?:\xef\xbb\xbf)?\s*<", "HTML or XML", "Check what the address leads to"),
)

LINE_ENDS = {b"\n": "LF", b"\r": "CR", b"\r\n": "CR LF"}

# Possessive (*+): to step back over each of a million doubled quotes takes a hundred megabytes.
QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"(?!")')
SEPARATOR = re.compile(rb",|\r\n|\r|\n")

# Up to PostgreSQL 17 a line of \. ends a COPY of CSV, also between quotes, and COPY ignores what follows.
END_OF_COPY = re.compile(rb"(?<![^\r\n])\\\.(?=[\r\n])")


def rejected(path: str, line: int, problem: str, column: str | None = None) -> FileRejected:
    """The error for one place in a file: what is wrong, why that stops the load, what to do."""
    place = f"{path}, line {line}" + (f", column {column}" if column else "")
    return FileRejected(
        f"{place}: {problem}. A file is loaded whole or not at all, so nothing was loaded, and what was published before "
        f"stays. When the file is corrected, clear this run."
    )


def split_header(chunks: Iterator[bytes], path: str) -> tuple[list[str], bytes, Iterator[bytes]]:
    """Read a file's first record.

    Returns:
        The names in the header, the bytes that end the header's line (LF, CR LF or CR), and all bytes after them.

    Raises:
        FileRejected: the file is empty, is not CSV, or its header is not UTF-8.
    """
    start = b""
    end = None
    for chunk in chunks:
        start += chunk
        end = _end_of_record(start)
        # One byte more, because a CR may be the first half of CR LF.
        if (end is not None and end + 1 < len(start)) or len(start) > MAX_HEADER_BYTES:
            break
    for pattern, name, advice in FORMATS:
        if re.match(pattern, start):
            raise rejected(path, 1, f'this is not CSV but {name}, which begins with "{shown(start[:end])}". {advice}')
    record = start[:end].removeprefix(BYTE_ORDER_MARK)
    if not record.strip():
        raise rejected(path, 1, "there is no header, and columns are found by their names")
    if len(record) > MAX_HEADER_BYTES:
        raise rejected(path, 1, f'the first record does not end; it begins with "{shown(record)}"')
    if b"\0" in record:
        raise rejected(path, 1, f'the header has a NUL byte, which is not text; it begins with "{shown(record)}"')
    try:
        names = next(csv.reader(io.StringIO(record.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise rejected(path, 1, f'the header cannot be read ({error}); it begins with "{shown(record)}"') from None
    rest = start[end:] if end is not None else b""
    line_end = next((each for each in (b"\r\n", b"\r") if rest.startswith(each)), b"\n")
    return names, line_end, chain([rest.removeprefix(line_end)], chunks)


def match_columns(
    header: Sequence[str], expected: Sequence[str], path: str, optional: Collection[str] = ()
) -> list[str]:
    """Columns of the table in the order of the file's header, which may lack the optional ones.

    Raises:
        FileRejected: a column is missing, is not in the table, or appears twice.
    """
    problems = []
    if missing := [name for name in expected if name not in {*header, *optional}]:
        problems.append(f"lacks {_named(missing)}")
    if extra := [name for name in dict.fromkeys(header) if name not in expected]:
        problems.append(f"has {_named(extra)}, which the table does not have")
    if repeated := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        problems.append(f"repeats {_named(repeated)}")
    if problems:
        raise FileRejected(
            f"{path}, line 1: the header {'; '.join(problems)} (it should name {_named(expected)}, in any order). Columns "
            f"are found by their names, so nothing was loaded, and what was published before stays. A new or renamed "
            f"column needs a migration of the table; if the file is wrong, clear this run when it is corrected."
        )
    return list(header)


def check_rows(chunks: Iterable[bytes], columns: Mapping[str, str], line_end: bytes, path: str) -> Iterator[bytes]:
    """Pass on the rows of a file, whole rows in each piece, and stop at the first that is wrong.

    The rows before a wrong one are passed on first, so that of two wrong rows the first one is reported, whether it is
    found here or by COPY.

    Args:
        chunks: the file after its header.
        columns: the types of the columns, in the file's order.
        line_end: the bytes that end each line.
        path: the file's name, for messages.

    Raises:
        FileRejected: a row is not CSV in UTF-8, does not have the header's columns, or has a value that its type does
            not allow.
    """
    if unknown := [f"{name} has type {type_name}" for name, type_name in columns.items() if type_name not in GRAMMARS]:
        raise rejected(path, 1, f"{', '.join(unknown)}, which dags/company_data/values.py does not describe")
    pattern = b",".join(_pattern(GRAMMARS[type_name].pattern) for type_name in columns.values())
    row, rows = re.compile(pattern), re.compile(rb"(?:%b%b)*+" % (pattern, line_end))
    shapes: set[bytes] = set()
    line, held = 2, b""
    for chunk in _with_one_line_end(chunks, line_end):
        text = held + chunk
        end_of_text = _end_of_text(text)
        end = _end_of_known_shapes(text, end_of_text, row, line_end, shapes)
        if not end and (good := rows.match(text, 0, end_of_text)):
            end = good.end()
        if end:
            yield text[:end]
        line += text.count(line_end[-1:], 0, end)
        held = text[end:]
        if b"\n" in held or b"\r" in held or len(held) > MAX_ROW_BYTES:
            too_long = f"the row has more than {MAX_ROW_BYTES:,} bytes" if len(held) > MAX_ROW_BYTES else None
            _reject_row(held, columns, line_end, path, line, too_long)
    if held:
        _reject_row(held, columns, line_end, path, line, "the file ends before the quote closes")


def _pattern(value: bytes | None) -> bytes:
    """Matches a field with such a value, quoted or not, or with none."""
    if value is None:
        return rb'(?:[^",\r\n\0]*+|"[^"\0]*+(?:""[^"\0]*+)*+")'
    return rb'(?:%b|"(?:%b)?"|)' % (value, value)


def _end_of_known_shapes(
    text: bytes, end_of_text: int, row: re.Pattern[bytes], line_end: bytes, shapes: set[bytes]
) -> int:
    """The end of the whole rows of the text, if a look at their shapes shows that all are right; otherwise 0.

    Rows that differ only in their digits have one shape and are checked once, which is three times as fast as to check
    every row. Digits matter in a time of day alone.

    Args:
        text: begins with a row.
        end_of_text: as _end_of_text finds it.
        row: matches a row.
        line_end: as of check_rows.
        shapes: those that are known to be right; the new ones are added, unless they are too many or too long.
    """
    lines, separator, _ = text.rpartition(line_end)
    end = len(lines) + len(separator)
    if not separator or end > end_of_text or b":" in lines:
        return 0
    new = set(lines.translate(DIGITS_TO_ZERO).split(line_end)) - shapes
    if len(shapes) + len(new) > MAX_SHAPES or not all(map(row.fullmatch, new)):
        return 0
    if new and sum(map(len, new)) + sum(map(len, shapes)) <= MAX_SHAPE_BYTES:
        shapes |= new
    return end


def _end_of_text(text: bytes) -> int:
    """The position of the first byte that is not text to every server."""
    end = len(text)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        end = error.start
    if b"\\." in text and (found := END_OF_COPY.search(text, 0, end)):
        end = found.start()
    return end


def _reject_row(
    row: bytes, columns: Mapping[str, str], line_end: bytes, path: str, line: int, over: str | None
) -> None:
    """Raise for the row that the text begins with, unless its end is still to come.

    Args:
        row: the text from the beginning of the row.
        columns: as of check_rows; so are line_end and path.
        line: the row's first line.
        over: why no more of the row will come; None if it may.
    """
    position = 0
    for name, next_name in zip_longest(columns, list(columns)[1:]):
        at = line + row.count(line_end[-1:], 0, position)
        quoted = QUOTED.match(row, position)
        is_open = not quoted and row.startswith(b'"', position)
        separator = SEPARATOR.search(row, quoted.end() if quoted else position)
        is_half = separator and separator[0] == b"\r" and separator.end() == len(row) and line_end == b"\r\n"
        if is_open or not separator or is_half:
            if over is None:
                return
            opened = f'a quote opens here and never closes, before "{shown(row[position + 1 :])}" ({over})'
            raise rejected(path, at, opened if is_open else over, name)
        if problem := _problem(row, position, separator.start(), columns[name]):
            raise rejected(path, at, problem, name)
        if separator[0] == b"," and next_name:
            position = separator.end()
            continue
        if separator[0] == b",":
            problem = "extra data after last expected column"
        elif separator[0] == line_end and next_name:
            problem = f'missing data for column "{next_name}"'
        else:
            problem = f"the line ends with {LINE_ENDS[separator[0]]} and the header with {LINE_ENDS[line_end]}"
        raise rejected(path, at, f'{problem} (found "{shown(row.splitlines()[0])}")')


def _problem(row: bytes, start: int, end: int, type_name: str) -> str | None:
    """Why what stands between two separators is not a value of this type."""
    value = row[start:end]
    if quoted := QUOTED.match(value):
        if after := value[quoted.end() :]:
            return f'a quoted value continues after its closing quote, with "{shown(after)}"'
        value = quoted[1].replace(b'""', b'"')
    elif b'"' in value:
        return "a quote is inside a value; a value that holds quotes must be quoted, with each doubled"
    if b"\0" in value:
        return f"a NUL byte is not text, after {_shown_before(row, row.index(0, start))}"
    try:
        row[:end].decode()
    except UnicodeDecodeError as error:
        wrong = row[error.start : error.end].hex(" ")
        return f"the bytes {wrong} are invalid UTF-8, after {_shown_before(row, error.start)}"
    if (found := END_OF_COPY.search(row, start)) and found.start() < end:
        return r"a line of the value is only \., which PostgreSQL 17 takes for the end of the file"
    grammar = GRAMMARS[type_name]
    if value and grammar.pattern and not re.fullmatch(grammar.pattern, value):
        return f'"{shown(value)}" is not {grammar.description}'
    return None


def _shown_before(row: bytes, position: int) -> str:
    return f'"{shown(row[max(position - MAX_BEFORE, 0) : position])}"'


def _with_one_line_end(chunks: Iterable[bytes], line_end: bytes) -> Iterator[bytes]:
    """The rows with exactly one line end after the last: COPY takes an empty last line for a row that is too short."""
    held, is_empty = b"", True
    for chunk in chunks:
        text = held + chunk
        body = text.rstrip(b"\r\n")
        held = text[len(body) :]
        if body:
            is_empty = False
            yield body
        if len(held) > MAX_HEADER_BYTES:
            yield held
            held = b""
    if not is_empty:
        yield line_end


def _end_of_record(text: bytes) -> int | None:
    quoted = False
    for position, byte in enumerate(text):
        if byte == ord('"'):
            quoted = not quoted
        elif byte in b"\r\n" and not quoted:
            return position
    return None


def _named(names: Iterable[str]) -> str:
    return ", ".join(f'"{shown(name)}"' for name in list(names)[:20])
