"""How a value of each type is written in a file, the same for all columns, servers and settings.

PostgreSQL accepts more, and not the same in every version: dates of many orders, words such as today, infinities,
hexadecimal digits, underscores. docs/file_rules.md has the table.
"""

from typing import NamedTuple


class Grammar(NamedTuple):
    """How the values of a type are written.

    Attributes:
        pattern: matches a whole value, without quotes. A column of text has none: any text is a value.
        description: completes "the value is not …".
    """

    pattern: bytes | None
    description: str = ""


# Possessive (++), so that the pattern of a row does not try shorter numbers.
_INTEGER = Grammar(rb"[+-]?[0-9]++", "an integer: digits, with or without a sign")
_DECIMAL = Grammar(
    # PostgreSQL would store and add up all the digits of 1e100000.
    # A page shows sums of them.
    rb"[+-]?(?:[0-9]{1,100}+(?:\.[0-9]{0,100}+)?|\.[0-9]{1,100}+)(?:[eE][+-]?[0-9]{1,3})?",
    "a decimal number: at most 100 digits before and after the decimal point, with or without sign and point, and an "
    "exponent of at most three digits",
)
_DATE = Grammar(
    rb"[0-9]{4}(?:-[0-9][0-9]-[0-9][0-9](?:[ T]00:00:00(?:\.0++)?)?|/[0-9][0-9]/[0-9][0-9]|[0-9]{4})",
    "a date: YYYY-MM-DD, YYYY/MM/DD, YYYYMMDD, or YYYY-MM-DD with the time 00:00:00 and no time zone",
)

# By the type's name and modifier in PostgreSQL. numeric(12,2) is missing, because it would round without an error.
GRAMMARS = {
    "smallint": _INTEGER,
    "integer": _INTEGER,
    "bigint": _INTEGER,
    "numeric": _DECIMAL,
    "double precision": _DECIMAL,
    "date": _DATE,
    "text": Grammar(None),
}
