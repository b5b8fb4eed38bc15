"""CSV files as the source sends them: the header of each file stands here alone."""

from functools import partial

HEADERS = {
    "sales": "idx,value,date,store_idx",
    "stores": "idx,location",
    "customer_profiles": "idx,attr_a,attr_b,attr_c",
    "customer_activity": "idx,valid_from,valid_to,scd_a,scd_b",
    "labels": "idx,label",
}


def file_of(table: str, *rows: str) -> str:
    """The file of a table, with rows such as "1,2.50,2024-01-05,7"."""
    return "".join(f"{line}\n" for line in (HEADERS[table], *rows))


sales, stores, labels = (partial(file_of, table) for table in ("sales", "stores", "labels"))
profiles, activity = (partial(file_of, table) for table in ("customer_profiles", "customer_activity"))
