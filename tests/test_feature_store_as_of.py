"""feature_store_as_of: the features of each client on a day."""

import os
import random
from datetime import date, timedelta
from typing import Any

import pytest
from conftest import Database, Rows
from psycopg.errors import InsufficientPrivilege
from steps import build_feature_store

# A failure prints the seed. RANDOM_SEED sets another one.
SEED = int(os.environ.get("RANDOM_SEED", "20240204"))
CLIENTS, DAYS = 300, 40

Activity = tuple[int, date, date | None, float | None, int]


def insert(database: Database, table: str, rows: list[Any]) -> None:
    with database.connect() as connection, connection.cursor() as cursor, cursor.copy(f"copy {table} from stdin") as to:
        for row in rows:
            to.write_row(row)


def as_of(database: Database, day: str, user: str = "ds_user") -> Rows:
    return database.run(f"select * from feature_store_as_of({day}) order by idx", user)


@pytest.fixture
def database(database: Database) -> Database:
    """A database whose tables have been published: the tests insert rows that no load has."""
    database.open_to_readers()
    return database


@pytest.fixture
def clients(database: Database) -> Database:
    """Clients 1 to 4 with a profile and a label, 5 without a label and 6 without a profile."""
    database.run("insert into customer_profiles select n, n * 10, 'A', 'x' from generate_series(1, 5) as n")
    database.run("insert into labels select n, n % 2 from generate_series(1, 6) as n where n <> 5")
    return database


@pytest.mark.parametrize(
    ("day", "shown"),
    [
        ("2020-01-09", None),  # before the first row
        ("2020-01-10", 1),  # valid_from itself
        ("2020-02-09", 1),
        ("2020-02-10", 1),  # valid_to itself: no other row has begun
        ("2020-02-11", 2),  # the next row begins the day after
        ("2020-03-01", 3),  # valid_to of one row, valid_from of the next
        ("2020-04-01", 5),  # a row that ends on the day on which it begins: the next one counts
        ("2020-05-02", 6),  # a row of one day
        ("2020-05-03", 7),
        ("2020-06-01", 7),  # valid_to, and no next row
        ("2020-07-01", 7),  # between two rows: the earlier one
        ("2020-08-01", 8),
        ("infinity", 8),
        ("-infinity", None),
    ],
)
def test_a_client_has_the_row_that_was_valid_on_the_day(clients: Database, day: str, shown: int | None) -> None:
    clients.run("""
        insert into customer_activity values
            (1, '2020-01-10', '2020-02-10', 0.5, 1),
            (1, '2020-02-11', '2020-03-01', 0.5, 2),
            (1, '2020-03-01', '2020-04-01', 0.5, 3),
            (1, '2020-04-01', '2020-04-01', 9.5, 4),
            (1, '2020-04-01', '2020-05-01', 0.5, 5),
            (1, '2020-05-02', '2020-05-02', 0.5, 6),
            (1, '2020-05-03', '2020-06-01', 0.5, 7),
            (1, '2020-08-01', null, 0.5, 8)
    """)
    assert as_of(clients, f"'{day}'") == ([] if shown is None else [(1, 10, "A", 0.5, shown, 1)])


def test_a_client_that_left_has_its_last_row_and_an_incomplete_client_has_none(clients: Database) -> None:
    clients.run("""
        insert into customer_activity values
            (1, '2020-01-01', '2020-02-01', 1.5, 11),  -- left
            (2, '2020-01-01', '2020-12-01', 2.5, 22),  -- ends after the day
            (3, '2021-01-01', null, 9.9, 99),          -- begins after the day
            (4, '2020-01-01', null, null, 44),
            (5, '2020-01-01', null, 9.9, 99),          -- no label
            (6, '2020-01-01', null, 9.9, 99)           -- no profile
    """)
    assert as_of(clients, "'2020-06-01'") == [
        (1, 10, "A", 1.5, 11, 1),
        (2, 20, "A", 2.5, 22, 0),
        (4, 40, "A", None, 44, 0),
    ]
    assert as_of(clients, "null") == []


def test_of_rows_that_are_valid_at_once_it_chooses_as_the_feature_store_does(clients: Database) -> None:
    clients.run("""
        insert into customer_activity values
            (1, '2020-01-01', null, 9.9, 99),
            (1, '2020-02-01', null, 1.5, 11),          -- the latest valid_from
            (2, '2020-01-01', '2020-03-01', 9.9, 99),
            (2, '2019-01-01', '2020-04-01', 2.5, 22),  -- ended last
            (3, '2020-01-01', null, null, 99),
            (3, '2020-01-01', null, 3.5, 33),          -- the same days: the greatest number, nulls last
            (3, '2020-01-01', null, 3.5, 32)
    """)
    expected = [(1, 10, "A", 1.5, 11, 1), (2, 20, "A", 2.5, 22, 0), (3, 30, "A", 3.5, 33, 1)]
    build_feature_store(clients)
    assert clients.run("select * from feature_store order by idx") == expected
    assert as_of(clients, "'2020-06-01'") == expected


def random_activity(numbers: random.Random, client: int, today: date) -> list[Activity]:
    """Rows of one client in order, without overlap. None begins or ends after today."""
    rows: list[Activity] = []
    start = today - timedelta(days=numbers.randint(0, 200))
    pause = numbers.choice([0, 1, 1, 30])
    for _ in range(numbers.randint(0, 4)):
        # Not a row that ends on the day on which it and the next one begin: a file does not say which came first.
        end = start + timedelta(days=numbers.choice([0 if pause else 1, 1, 2, 20, 60]))
        is_current = end > today or numbers.random() < 0.2
        scd_a = None if numbers.random() < 0.1 else numbers.random()
        rows.append((client, start, None if is_current else end, scd_a, numbers.randint(0, 9)))
        start = end + timedelta(days=pause)
        if is_current or start > today:
            break
    return rows


def test_on_random_clean_data_each_day_equals_a_model_and_today_equals_the_feature_store(database: Database) -> None:
    numbers = random.Random(SEED)  # noqa: S311 - no secret
    [(today,)] = database.run("select current_date")
    profiles = [(c, c, "A", "x") for c in range(CLIENTS) if numbers.random() < 0.9]
    labels = [(c, numbers.randint(0, 1)) for c in range(CLIENTS) if numbers.random() < 0.9]
    activity = {c: random_activity(numbers, c, today) for c in range(CLIENTS)}
    rows = [row for of_client in activity.values() for row in of_client]
    for table, found in (("customer_profiles", profiles), ("customer_activity", rows), ("labels", labels)):
        # Files can repeat rows and have no order.
        found = [*found, *numbers.sample(found, 20)]
        insert(database, table, numbers.sample(found, len(found)))

    def expected(day: date) -> Rows:
        labelled = dict(labels)
        shown = []
        for client, attr_a, attr_b, _ in profiles:
            begun = [row for row in activity[client] if row[1] <= day]
            if begun and client in labelled:
                shown.append((client, attr_a, attr_b, *begun[-1][3:], labelled[client]))
        return shown

    edges = [edge for row in rows for edge in row[1:3] if isinstance(edge, date)]
    days = [*numbers.sample(edges, DAYS), *(today - timedelta(days=numbers.randint(0, 220)) for _ in range(DAYS))]
    for day in days:
        assert as_of(database, f"'{day}'") == expected(day), f"RANDOM_SEED={SEED}, {day}"

    build_feature_store(database)
    found = database.run("select * from feature_store order by idx")
    assert len(found) > CLIENTS / 2
    assert as_of(database, "current_date") == expected(today) == found, f"RANDOM_SEED={SEED}"


def test_on_random_overlapping_data_a_day_after_all_rows_equals_the_feature_store(database: Database) -> None:
    numbers = random.Random(SEED)  # noqa: S311 - no secret
    insert(database, "customer_profiles", [(c, c, "A", "x") for c in range(CLIENTS)])
    insert(database, "labels", [(c, c % 2) for c in range(CLIENTS)])

    def day() -> date:
        return date(2024, 1, 1) + timedelta(days=numbers.randint(0, 9))

    rows = [
        (
            numbers.randrange(CLIENTS),
            day(),
            numbers.choice([None, day()]),
            numbers.choice([None, 0.5, 1.5]),
            numbers.randint(0, 2),
        )
        for _ in range(5 * CLIENTS)
    ]
    insert(database, "customer_activity", rows)
    build_feature_store(database)
    found = database.run("select * from feature_store order by idx")
    assert len(found) > CLIENTS / 2
    assert as_of(database, "'infinity'") == found, f"RANDOM_SEED={SEED}"
    assert as_of(database, "current_date") == found, f"RANDOM_SEED={SEED}"


def test_it_has_the_columns_of_the_feature_store(database: Database) -> None:
    described = []
    for relation in ("feature_store", "feature_store_as_of(current_date)"):
        with database.connect("ds_user") as connection:
            columns = connection.execute(f"select * from {relation}").description or []
            described.append([(column.name, column.type_code) for column in columns])
    assert described[0] == described[1]


@pytest.mark.parametrize("user", ["ds_user", "mle_user", "admin"])
def test_every_user_who_reads_the_tables_can_call_it(database: Database, user: str) -> None:
    assert as_of(database, "current_date", user) == []


def test_it_does_not_bypass_the_privileges_on_the_tables(database: Database) -> None:
    database.run("create role stranger login password 'stranger'")
    try:
        with pytest.raises(InsufficientPrivilege, match="permission denied for table"):
            as_of(database, "current_date", "stranger")
    finally:
        database.run("drop role stranger")


def test_it_is_planned_as_part_of_the_query_that_calls_it(database: Database) -> None:
    plan = database.run("explain select * from feature_store_as_of('2024-01-01') where idx = 7")
    assert not any("Function Scan" in line for (line,) in plan)
    assert sum("idx = 7" in line for (line,) in plan) >= 4  # pushed down into each table, before any sort
