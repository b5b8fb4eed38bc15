"""feature_history: the features of each client on each day, when they were known, and the functions that select."""

import os
import random
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from conftest import Database, Files, Rows
from psycopg.errors import CheckViolation
from support.bucket_files import write_customers
from support.steps import build_feature_store, load_customers

from company_data.settings import feature_history_keep_for as keep_for
from company_data.settings import feature_store_max_loss as max_loss

pytestmark = pytest.mark.usefixtures("open_features")

# A failure prints the seed. RANDOM_SEED sets another one.
SEED = int(os.environ.get("RANDOM_SEED", "20240204"))

Activity = tuple[int, date, date | None, float | None, int]


def as_of(database: Database, day: str) -> Rows:
    return database.run(f"select * from feature_store_as_of({day}) order by idx", "ds_user")


@pytest.fixture
def clients(database: Database) -> Database:
    """Clients 1 to 4 with a profile and a label, 5 without a label and 6 without a profile."""
    database.run("insert into customer_profiles select n, n * 10, 'A', 'x' from generate_series(1, 5) as n")
    database.run("insert into labels select n, n % 2 from generate_series(1, 6) as n where n <> 5")
    return database


# Dates of nasty files lie in these days, so that they often meet.
FIRST_DAY, NASTY_DAYS = date(2024, 1, 1), 12


class CustomerFiles(NamedTuple):
    """The rows of the three files, without attr_c."""

    profiles: list[tuple[int, int | None, str | None]]
    activity: list[Activity]
    labels: list[tuple[int, int]]


def nasty_files(numbers: random.Random, clients: Iterable[int]) -> CustomerFiles:
    """Overlaps, ends before beginnings, rows without an end, ties, nulls, and repeated rows."""

    def day() -> date:
        return FIRST_DAY + timedelta(days=numbers.randrange(NASTY_DAYS))

    ids = list(clients)
    values = [None, 0.5, 1.5, -2.5, 1e300]
    activity = [
        (client, day(), numbers.choice([None, day(), day(), day()]), numbers.choice(values), numbers.randint(0, 2))
        for client in ids
        for _ in range(numbers.choice([0, 1, 2, 2, 3, 4, 6]))
    ]
    files = CustomerFiles(
        [(c, numbers.choice([None, 1, 2]), numbers.choice([None, "A"])) for c in ids if numbers.random() < 0.95],
        [*activity, *numbers.sample(activity, len(activity) // 20)],
        [(c, numbers.randint(0, 1)) for c in ids if numbers.random() < 0.95],
    )
    numbers.shuffle(files.activity)
    return files


def on_day(files: CustomerFiles, day: date) -> dict[int, tuple[Any, ...]]:
    """The features of each client on a day, read from the files as docs/data_users.md states the rule."""

    chosen: dict[int, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
    for client, begin, end, scd_a, scd_b in files.activity:
        if begin > day:
            continue
        is_valid = end is None or end > day
        rank = (is_valid, date.min if is_valid else end, begin, (scd_a is not None, scd_a or 0), scd_b)
        if client not in chosen or rank > chosen[client][0]:
            chosen[client] = (rank, (scd_a, scd_b))
    labels = dict(files.labels)
    return {
        client: (attr_a, attr_b, *chosen[client][1], labels[client])
        for client, attr_a, attr_b in files.profiles
        if client in chosen and client in labels
    }


def each_day() -> list[date]:
    """The days of nasty files, one before and one after them."""
    return [FIRST_DAY + timedelta(days=number) for number in range(-1, NASTY_DAYS + 1)]


# What feature_store_at shows for a pair.
OF_PAIRS = (
    "(features).idx, day, (features).attr_a, (features).attr_b, (features).scd_a, (features).scd_b, (features).label"
)


def pairs_of(clients: Iterable[int]) -> list[tuple[int, date]]:
    return [(client, day) for client in clients for day in each_day()]


def at(database: Database, pairs: list[tuple[int, date]], known_at: datetime | None = None) -> Rows:
    """What feature_store_at shows for the pairs, in their order."""
    moment = [] if known_at is None else [known_at]
    query = f"select {OF_PAIRS} from feature_store_at(%s::int[], %s::date[]{', %s' if moment else ''})"
    with database.connect("ds_user") as connection:
        arrays = [[client for client, _ in pairs], [day for _, day in pairs]]
        return connection.execute(query, [*arrays, *moment]).fetchall()


def expected_at(files: CustomerFiles, pairs: list[tuple[int, date]]) -> Rows:
    shown = {day: on_day(files, day) for day in each_day()}
    return [(client, day, *shown[day].get(client, (None,) * 5)) for client, day in pairs]


def expected_as_of(files: CustomerFiles, day: date) -> Rows:
    return [(client, *features) for client, features in sorted(on_day(files, day).items())]


# What the key of the table does not enforce, and holds for every client and at every moment.
BROKEN_CLIENTS = """
    with moments as (
        select known_from as known_at from feature_history union select known_to from feature_history
    ),

    known as (
        select
            known_at, idx, valid_from, valid_to,
            lead(valid_from) over (partition by known_at, idx order by valid_from) as next_from
        from moments
        inner join feature_history on known_at >= known_from and (known_at < known_to or known_to is null)
    )

    select known_at, idx, valid_from, valid_to, next_from from known where valid_to is distinct from next_from
"""


def corrected(numbers: random.Random, files: CustomerFiles, clients: range) -> CustomerFiles:
    """Other rows for some of the clients, in one, two or all of the files."""
    changed = set(numbers.sample(clients, len(clients) // 5))
    other = nasty_files(numbers, sorted(changed))
    pairs: Any = zip(files, other, strict=True)
    return CustomerFiles(
        *(old if numbers.random() < 0.3 else [row for row in old if row[0] not in changed] + new for old, new in pairs)
    )


def write(folder: Files, files: CustomerFiles) -> None:
    def lines(rows: Iterable[Iterable[object]]) -> Iterable[str]:
        return (",".join("" if value is None else str(value) for value in row) for row in rows)

    write_customers(folder, lines((*row, "x") for row in files.profiles), lines(files.activity), lines(files.labels))


def known_now(database: Database) -> datetime:
    """The moment of the newest build."""
    [(moment,)] = database.run("select max(known_at) from pipeline.feature_store_builds")
    assert isinstance(moment, datetime)
    return moment


def test_each_client_day_and_moment_of_nasty_files_equals_an_independent_reading_of_the_rule(
    database: Database, files: Files
) -> None:
    numbers = random.Random(SEED)  # noqa: S311 - no secret
    clients = range(250)
    pairs = pairs_of(clients)
    numbers.shuffle(pairs)
    pairs += pairs[:100]
    content = nasty_files(numbers, clients)
    replayed: list[tuple[datetime, CustomerFiles]] = []
    superseded = 0
    columns = "idx, valid_from, valid_to, attr_a, attr_b, scd_a, scd_b, label"
    rows_known_now = f"select {columns} from feature_history where known_to is null"
    count_superseded = "select count(*) from feature_history where known_to is not null"
    for number in range(5):
        write(files, content)
        load_customers(database)
        if number != 2:  # two loads before one build: what the first brought was never built
            before = set(map(str, database.run(rows_known_now)))
            build_feature_store(database)
            after = set(map(str, database.run(rows_known_now)))
            superseded += len(before - after)
            moment = known_now(database)
            newest = "select max(published_at) from pipeline.loads where status = 'published'"
            assert database.run(newest) == [(moment,)]
            # The difference alone was written.
            written = database.run(f"select idx from feature_history where known_from = '{moment}'")
            assert len(written) == len(after - before)
            for _ in range(2):
                assert database.run(count_superseded) == [(superseded,)]
                build_feature_store(database)  # without a new file it changes nothing
            replayed.append((moment, content))
        content = corrected(numbers, content, clients)

    tick = timedelta(microseconds=1)
    for place, (moment, known) in enumerate(replayed):
        until = replayed[place + 1][0] - tick if place + 1 < len(replayed) else moment + timedelta(days=1)
        for known_at in (moment, until):
            assert at(database, pairs, known_at) == expected_at(known, pairs), f"RANDOM_SEED={SEED}, {known_at}"
        day = numbers.choice(each_day())
        assert as_of(database, f"'{day}', '{until}'") == expected_as_of(known, day), f"RANDOM_SEED={SEED}, {day}"
    assert at(database, pairs, replayed[0][0] - tick) == expected_at(CustomerFiles([], [], []), pairs)
    content = replayed[-1][1]
    assert at(database, pairs) == expected_at(content, pairs)
    for day in (FIRST_DAY, each_day()[-1]):
        assert as_of(database, f"'{day}'") == expected_as_of(content, day)
    assert as_of(database, "'infinity'") == as_of(database, f"'{each_day()[-1]}'")
    assert as_of(database, "'-infinity'") == as_of(database, "null") == []
    assert database.run(f"select count(*) from ({BROKEN_CLIENTS}) as broken") == [(0,)]


def test_moments_grow_from_build_to_build_whichever_file_was_published_first(database: Database, files: Files) -> None:
    """A build knows a moment after the publication that a later build reads: rows that were changed by hand."""
    numbers = random.Random(SEED)  # noqa: S311 - no secret
    clients = range(20)
    contents = [nasty_files(numbers, clients) for _ in range(2)]
    moments = []
    for content in contents:
        write(files, content)
        load_customers(database)
        # As if the second load had been published before the first build began, and committed after it.
        known = "select known_at from pipeline.feature_store_builds"
        database.run(f"update pipeline.loads set published_at = coalesce(({known}), published_at)")
        build_feature_store(database)
        moments.append(known_now(database))
    assert moments[0] < moments[1]
    for content, moment in zip(contents, moments, strict=True):
        assert at(database, pairs_of(clients), moment) == expected_at(content, pairs_of(clients))


def test_superseded_rows_are_kept_or_deleted_after_the_days_of_the_setting(clients: Database) -> None:
    kept = "select scd_b from feature_history order by scd_b"
    for value in (1, 2, 3):
        clients.run("truncate customer_activity")
        clients.run(f"insert into customer_activity values (1, '2020-01-01', null, 1.5, {value})")
        build_feature_store(clients)
    # The first row was superseded ten days ago.
    now = datetime.now(UTC)
    clients.run(f"""
        update feature_history
        set known_from = '{now - timedelta(days=20)}', known_to = '{now - timedelta(days=10)}'
        where scd_b = 1
    """)
    build_feature_store(clients)
    assert clients.run(kept) == [(1,), (2,), (3,)]
    for days, expected in (("11", [(1,), (2,), (3,)]), ("9", [(2,), (3,)])):
        build_feature_store(clients, keep_for=f"{days} days")
        assert clients.run(kept) == expected
    assert clients.run("select max(kept_from) < now() from pipeline.feature_store_builds") == [(True,)]
    for query in ("feature_store_as_of('2020-02-01', {})", "feature_store_at('{{1}}', '{{2020-02-01}}', {})"):
        assert len(clients.run(f"select * from {query.format('now()')}", "ds_user")) == 1
        with pytest.raises(CheckViolation, match=r"is not complete any more\. Choose a later moment"):
            clients.run(f"select * from {query.format('now() - 15 * interval $$1 day$$')}", "ds_user")


@pytest.mark.parametrize(
    ("read", "name", "right", "wrong"),
    [
        (keep_for, "FEATURE_HISTORY_KEEP_DAYS", {"": "infinity", "730": "730 days"}, ["-1", "9" * 9, "\u0663"]),
        (max_loss, "FEATURE_STORE_MAX_LOSS", {"": "20", "0": "0", "100": "100"}, ["-1", "20%", "\u0663"]),
    ],
)
def test_a_setting_is_read_or_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], str], name: str, right: dict[str, str], wrong: list[str]
) -> None:
    for value, found in right.items():
        monkeypatch.setenv(name, value)
        assert read() == found
    for value in wrong:
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=f"{name} is"):
            read()


@pytest.mark.parametrize("table", ["feature_history", "feature_store"])
def test_a_table_that_was_emptied_by_hand_is_built_again(clients: Database, table: str) -> None:
    clients.run("insert into customer_activity values (1, '2020-01-01', null, 1.5, 11)")
    build_feature_store(clients)
    clients.run(f"truncate {table}", "mle_user")
    build_feature_store(clients)
    assert clients.run("select idx from feature_store") == clients.run("select idx from feature_history") == [(1,)]


def test_a_run_that_is_triggered_by_hand_repairs_rows_that_were_changed_by_hand(clients: Database) -> None:
    clients.run("insert into customer_activity select idx, '2020-01-01', null, 1.5, 11 from customer_profiles")
    build_feature_store(clients)
    before = clients.run("select * from feature_store order by idx")
    assert len(before) > 1
    clients.run(
        "update feature_history set scd_a = 99 where idx = 1; delete from feature_history where idx = 2", "mle_user"
    )
    build_feature_store(clients)
    assert clients.run("select * from feature_store order by idx") != before
    # Of a client that no file has, and of one day more: later than the next build may know.
    insert = "insert into feature_history (idx, valid_from, label, known_from) values (999, {0}), (1, {0})"
    clients.run(insert.format("'2030-01-01', 1, now() + interval '1 day'"), "mle_user")
    build_feature_store(clients, run_type="manual")
    assert clients.run("select * from feature_store order by idx") == before
    assert clients.run("select count(*) from feature_history where known_to is null") == [(len(before),)]


def test_pairs_may_be_none_or_null_and_have_as_many_clients_as_days(database: Database) -> None:
    assert at(database, []) == []
    nothing = (None,) * 5
    assert database.run(f"select {OF_PAIRS} from feature_store_at('{{1, null}}', '{{null, 2020-03-15}}')") == [
        (1, None, *nothing),
        (None, date(2020, 3, 15), *nothing),
    ]
    with pytest.raises(CheckViolation, match="idx has length 2 and day has length 1"):
        database.run("select * from feature_store_at('{1, 2}', '{2020-02-01}')")


def test_a_client_is_looked_up_by_an_index_in_the_query_that_calls_the_function(database: Database) -> None:
    def plan_of(query: str) -> str:
        return "\n".join(line for (line,) in database.run(f"explain select * from {query}", "ds_user"))

    for query in ("feature_store_as_of('2024-01-01')", "feature_store_at('{7}', '{2024-01-01}')"):
        plan = plan_of(query)
        assert "feature_history_known" in plan
        assert "feature_history_superseded" not in plan  # nor are superseded rows read
    database.run("""
        insert into feature_history (idx, valid_from, attr_a, attr_b, scd_a, scd_b, label, known_from, known_to)
        select n, '2020-01-01', 1, 'A', 1, 1, 1, '2020-01-01', case when n % 2 = 0 then timestamp '2021-01-01' end
        from generate_series(1, 5000) as n
    """)
    database.run("analyze feature_history")
    for call, indexes in {
        "feature_store_as_of('2024-01-01') where idx = 7": 1,
        "feature_store_as_of('2024-01-01', now()) where idx = 7": 2,
        "feature_store_at('{7}', '{2024-01-01}')": 1,
        "feature_store_at('{7}', '{2024-01-01}', now())": 2,
    }.items():
        plan = plan_of(call)
        assert "Function Scan on feature_store" not in plan
        assert plan.count("Index Cond: ") == indexes, plan
        assert "Seq Scan" not in plan
