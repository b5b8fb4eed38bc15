"""The files of a small bucket."""

from collections.abc import Iterable

from conftest import Files
from support import csv_text


def write_month(files: Files, month: str, *rows: str) -> None:
    """The sales of a month (YYYY-MM), by default one, and store 1."""
    files.write("stores.csv", csv_text.stores("1,Porto"))
    files.write(f"sales/{month}-01/sales.csv", csv_text.sales(*(rows or [f"1,1,{month}-01,1"])))


def write_customers(
    files: Files,
    profiles: Iterable[str] = ("1,1,A,x",),
    activity: Iterable[str] = ("1,2020-01-01,,1,1",),
    labels: Iterable[str] = ("1,0",),
) -> None:
    """The three customer files, by default of one client."""
    files.write("customer_profiles.csv", csv_text.profiles(*profiles))
    files.write("customer_activity.csv", csv_text.activity(*activity))
    files.write("labels.csv", csv_text.labels(*labels))
