"""Checks CSV text on its way to COPY, for what COPY would misread or explain badly.

COPY lets a quote begin in the middle of a value and then reads on over line ends until the next one, which can silently
join two rows into one; for bytes that are not text it names no column, and for a quote that never closes it names the
last line instead of the first. RFC 4180 allows a quote only around a whole value, which is what is required here.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from company_data.errors import FileRejected

BYTE_ORDER_MARK = codecs.BOM_UTF8
MAX_HEADER_BYTES = 1 << 16
MAX_QUOTED_BYTES = 1 << 20
MAX_SHOWN_BYTES = 60


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
        The names in the header, the byte that ends the file's lines (LF, also of CR LF, or CR), and all the bytes of
        the file, header included, without a byte order mark.

    Raises:
        FileRejected: the file is empty, is not CSV, or its header is not UTF-8.
    """
    start = b""
    end = None
    for chunk in chunks:
        start += chunk
        end = _end_of_record(start)
        if end is not None or len(start) > MAX_HEADER_BYTES:
            break
    else:
        end = len(start)
    record = start[:end].removeprefix(BYTE_ORDER_MARK)
    start = start.removeprefix(BYTE_ORDER_MARK)
    if not record.strip():
        raise rejected(path, 1, "there is no header, and columns are found by their names")
    if record.lstrip().startswith(b"<"):
        raise rejected(path, 1, f'this is not CSV but HTML or XML, which begins with "{_shown(record)}"')
    if len(record) > MAX_HEADER_BYTES:
        raise rejected(path, 1, f'the first record does not end; it begins with "{_shown(record)}"')
    if b"\0" in record:
        raise rejected(path, 1, f'the header has a NUL byte, which is not text; it begins with "{_shown(record)}"')
    try:
        names = next(csv.reader(io.StringIO(record.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise rejected(path, 1, f'the header cannot be read ({error}); it begins with "{_shown(record)}"') from None
    line_end = b"\r" if re.match(rb"\r[^\n]", start[len(record) :], re.S) else b"\n"
    return names, line_end, chain([start], chunks)


def match_columns(header: Sequence[str], expected: Sequence[str], path: str) -> list[str]:
    """Columns of the table in the order of the file's header.

    Raises:
        FileRejected: a column is missing, is not in the table, or appears twice.
    """
    problems = []
    if missing := [name for name in expected if name not in header]:
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


class TextCheck:
    """Follows the text of a file, and stops at anything that is not plain CSV in UTF-8."""

    def __init__(self, path: str, columns: Sequence[str], line_end: bytes = b"\n") -> None:
        """Start before the first byte.

        Args:
            path: the file's name, for messages.
            columns: the file's columns in its order, for messages.
            line_end: the byte that ends a line.
        """
        self._path = path
        self._line_end = line_end
        self._columns = columns
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._line = 1
        self._separators = 0  # in this line so far: the index of the column
        self._quoted = False
        self._before = b"\n"  # the byte before, where it is outside quotes
        self._opened = (1, 0, b"")  # line, column and beginning of the quoted value
        self._quoted_bytes = 0

    def pass_on(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks, each after it was checked.

        Raises:
            FileRejected: a NUL, invalid UTF-8, a quote inside a value, or one that never closes.
        """
        for chunk in chunks:
            self._check(chunk)
            yield chunk
        if self._quoted:
            self._reject_open_quote("the file ends before the quote closes")
        if self._decoder.getstate()[0]:
            self._reject("the file ends in the middle of a UTF-8 character")

    def _check(self, chunk: bytes) -> None:
        pending = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            self._advance(chunk[: max(error.start - pending, 0)])
            wrong = error.object[error.start : error.end].hex(" ")
            self._reject(f"the bytes {wrong} are invalid UTF-8, after {self._shown_end(chunk, error.start - pending)}")
        nul = chunk.find(b"\0")
        if nul >= 0:
            self._advance(chunk[:nul])
            self._reject(f"a NUL byte is not text, after {self._shown_end(chunk, nul)}")
        self._advance(chunk)

    def _advance(self, text: bytes) -> None:
        for number, part in enumerate(text.split(b'"')):
            if number:
                self._pass_quote()
            if self._quoted:
                self._pass_quoted(part)
            elif part:
                self._pass_plain(part)

    def _pass_quote(self) -> None:
        if self._quoted:
            self._quoted = False
        elif self._before == b'"':  # doubled: a quote inside the quoted value
            self._quoted = True
        elif self._before in (b",", b"\n", b"\r"):
            self._quoted = True
            self._opened = (self._line, self._separators, b"")
            self._quoted_bytes = 0
        else:
            self._reject("a quote is inside a value; a value that holds quotes must be quoted, with each doubled")
        self._before = b'"'

    def _pass_quoted(self, part: bytes) -> None:
        self._line += part.count(self._line_end)
        line, separators, start = self._opened
        self._opened = (line, separators, start or part[:MAX_SHOWN_BYTES])
        self._quoted_bytes += len(part)
        if self._quoted_bytes > MAX_QUOTED_BYTES:
            self._reject_open_quote(f"the quoted value goes on for more than {MAX_QUOTED_BYTES:,} bytes")

    def _pass_plain(self, part: bytes) -> None:
        if self._before == b'"' and part[:1] not in (b",", b"\n", b"\r"):
            self._reject(f'a quoted value goes on after its closing quote, with "{_shown(part)}"')
        self._line += part.count(self._line_end)
        line_start = max(part.rfind(b"\n"), part.rfind(b"\r")) + 1
        separators = part.count(b",", line_start)
        self._separators = separators if line_start else self._separators + separators
        self._before = part[-1:]

    def _reject(self, problem: str) -> None:
        raise rejected(self._path, self._line, problem, self._column(self._separators))

    def _reject_open_quote(self, problem: str) -> None:
        line, separators, start = self._opened
        opened = f'a quote opens here and never closes, before "{_shown(start)}"'
        raise rejected(self._path, line, f"{opened} ({problem})", self._column(separators))

    def _column(self, separators: int) -> str | None:
        return self._columns[separators] if separators < len(self._columns) else None

    def _shown_end(self, chunk: bytes, position: int) -> str:
        line = chunk[: max(position, 0)].rpartition(b"\n")[2]
        return f'"{_shown(line[-MAX_SHOWN_BYTES:])}"'


def without_blank_end(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The text without its last line ends: COPY takes an empty last line for a row that is too short."""
    held = b""
    for chunk in chunks:
        text = held + chunk
        body = text.rstrip(b"\r\n")
        held = text[len(body) :]
        if body:
            yield body
        if len(held) > MAX_HEADER_BYTES:
            yield held
            held = b""


def _end_of_record(text: bytes) -> int | None:
    quoted = False
    for position, byte in enumerate(text):
        if byte == ord('"'):
            quoted = not quoted
        elif byte in b"\r\n" and not quoted:
            return position
    return None


def _named(names: Iterable[str]) -> str:
    return ", ".join(f'"{_shown(name.encode())}"' for name in list(names)[:20])


def _shown(text: bytes) -> str:
    return text[:MAX_SHOWN_BYTES].decode(errors="replace").replace("\0", "\\0")
