"""CSV files as the source sends them: the header of each file stands here alone."""

HEADERS = {
    "sales": "idx,value,date,store_idx",
    "stores": "idx,location",
    "customer_profiles": "idx,attr_a,attr_b,attr_c",
    "customer_activity": "idx,valid_from,valid_to,scd_a,scd_b",
    "labels": "idx,label",
}


def _file(name: str, rows: tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in (HEADERS[name], *rows))


def sales(*rows: str) -> str:
    """A file of sales, with rows such as "1,2.50,2024-01-05,7"."""
    return _file("sales", rows)


def stores(*rows: str) -> str:
    """A list of stores, with rows such as "7,Porto"."""
    return _file("stores", rows)


def profiles(*rows: str) -> str:
    """A file of profiles, with rows such as "1,2,A,xy"."""
    return _file("customer_profiles", rows)


def activity(*rows: str) -> str:
    """A file of activity, with rows such as "1,2024-01-01,,0.5,3"."""
    return _file("customer_activity", rows)


def labels(*rows: str) -> str:
    """A file of labels, with rows such as "1,0"."""
    return _file("labels", rows)
