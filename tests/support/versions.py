"""Files in which a version shows in every table, and what readers see of them: whole versions, or a test fails."""

from collections.abc import Mapping

from conftest import Database, Files, Rows
from support import csv_text

JANUARY, FEBRUARY, MARCH = MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01")
ROWS = 200  # of a month

# All that readers see, in one statement and as texts; see seen.
EVERYTHING = """
    select
        (
            select string_agg(concat_ws(' ', date, value::integer, sales), ', ' order by date, value)
            from (select date, value, count(*) as sales from sales group by date, value) as counted
        ),
        (
            select string_agg(concat_ws(' ', sale_month, location, value::integer), ', ' order by sale_month, store_idx)
            from monthly_sales
        ),
        (select string_agg(concat_ws(' ', idx, location), ', ' order by idx) from stores),
        (select string_agg(concat_ws(' ', idx, attr_a), ', ' order by idx) from customer_profiles),
        (select string_agg(concat_ws(' ', idx, scd_a::integer), ', ' order by idx) from customer_activity),
        (select string_agg(idx::text, ', ' order by idx) from labels)
"""


def shown(database: Database) -> Rows:
    """What ds_user sees now."""
    return database.run(EVERYTHING, "ds_user")


def path_of(month: str) -> str:
    return f"sales/{month}/sales.csv"


def month_text(month: str, version: int, rows: int = ROWS) -> str:
    """The file of a month: sales of two stores, each with the version as its value."""
    return csv_text.sales(*(f"{n},{version},{month},{n % 2 + 1}" for n in range(rows)))


def write_sales(files: Files, version: int, *months: str) -> None:
    """The list of stores, and the files of months, by default of all three."""
    files.write("stores.csv", csv_text.stores(f"1,A {version}", f"2,B {version}"))
    for month in months or MONTHS:
        files.write(path_of(month), month_text(month, version))


def clients_of(version: int) -> tuple[int, ...]:
    """Two clients that stay, and one that is in this version alone."""
    return (1, 2, 10 + version) if version else ()


def write_customers(files: Files, version: int) -> None:
    """The three customer files; the first client has no current activity."""
    clients = clients_of(version)
    files.write("customer_profiles.csv", csv_text.profiles(*(f"{n},{version},A,x" for n in clients)))
    activity = (f"{n},2020-01-01,{'2020-02-01' if n == 1 else ''},{version},1" for n in clients)
    files.write("customer_activity.csv", csv_text.activity(*activity))
    files.write("labels.csv", csv_text.labels(*(f"{n},0" for n in clients)))


def write_all(files: Files, version: int) -> None:
    """The files of all tables."""
    write_sales(files, version)
    write_customers(files, version)


def seen(months: Mapping[str, int], customers: int = 0) -> Rows:
    """What EVERYTHING returns.

    Args:
        months: the version of each month that is loaded; the newest one was loaded last.
        customers: the version of the customer files; 0 if there is none.
    """
    stores = max(months.values(), default=0)
    with_version = [f"{client} {customers}" for client in clients_of(customers)]
    columns = (
        [f"{month} {version} {ROWS}" for month, version in sorted(months.items())],
        [f"{month} {s} {version} {version * ROWS // 2}" for month, version in sorted(months.items()) for s in "AB"],
        [f"1 A {stores}", f"2 B {stores}"] if stores else [],
        with_version,
        with_version,
        [str(client) for client in clients_of(customers)],
    )
    return [tuple(", ".join(column) or None for column in columns)]
