"""make_training_set and repeat_training_set: a set is recorded, and is the same when it is made again."""

import psycopg
import pytest
from conftest import Database, Files
from psycopg.errors import CheckViolation, InsufficientPrivilege
from support.bucket_files import write_customers
from support.steps import build_feature_store, load_customers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("open_features")]

PAIRS = "select day, (features).* from feature_store_at('{2, 1, 2}', '{2020-02-01, 2020-02-01, 2019-01-01}', $1)"
WHOLE_DAY = "select idx, scd_a, label from feature_store_as_of('2020-02-01', $1)"


def write(files: Files, version: int, clients: int = 3) -> None:
    ids = range(1, clients + 1)
    activity = (f"{n},2020-01-01,,{version / 7},1" for n in ids)
    write_customers(files, (f"{n},{version},A,x" for n in ids), activity, (f"{n},{version % 2}" for n in ids))


def build_first(database: Database, files: Files) -> Database:
    write(files, 1)
    load_customers(database)
    build_feature_store(database)
    return database


@pytest.fixture
def built(database: Database, files: Files) -> Database:
    """Features of version 1."""
    return build_first(database, files)


def make(database: Database, name: str, query: str = WHOLE_DAY, user: str = "ds_user", known_at: str = "null") -> None:
    with database.connect(user) as connection:
        connection.execute(f"select make_training_set(%s, %s, {known_at})", [name, query])


def is_same(database: Database, name: str, user: str = "ds_user") -> bool:
    [(same,)] = database.run(f"select is_same from repeat_training_set('{name}')", user)
    return bool(same)


QUERIES = {
    "pairs": PAIRS,
    "day": WHOLE_DAY,
    "unordered": f"{WHOLE_DAY} order by random();\n",
    "with comment": f"{WHOLE_DAY} -- all",
}


def test_a_set_is_recorded_and_the_same_after_three_corrected_files_if_it_depends_on_the_history_alone(
    database: Database, files: Files
) -> None:
    with pytest.raises(CheckViolation, match="There are no features yet"):
        make(database, "a")
    built = build_first(database, files)
    make(built, "pairs", PAIRS)
    with pytest.raises(CheckViolation, match='There is a training set "pairs" already'):
        make(built, "pairs")
    with pytest.raises(CheckViolation, match='There is no training set "b"'):
        is_same(built, "b")
    found = built.run(
        """
        select query, known_at = (select max(known_from) from feature_history), loads, row_count, length(hash), made_by
        from training_sets
        """,
        "mle_user",
    )
    assert found == [(PAIRS, True, [1, 2, 3], 3, 64, "ds_user")]
    for name in ("day", "unordered", "with comment"):
        make(built, name, QUERIES[name])
    make(built, "of today", "select * from feature_store")
    assert is_same(built, "of today")
    for version in (2, 3, 4):
        write(files, version, version)
        load_customers(built)
        if version == 2:
            # A moment after the newest build is that build's: the load that is not built yet would change the set.
            make(built, "now", known_at="now()")
            make(built, "for ever", known_at="'infinity'")
        build_feature_store(built)
        assert [name for name in (*QUERIES, "now", "for ever") if not is_same(built, name)] == []
    assert not is_same(built, "of today")
    for name, query in QUERIES.items():
        make(built, f"{name} now", query)
        make(built, f"{name} again", query, known_at=f"(select known_at from training_sets where name = '{name}')")
    hashes: dict[str, str] = dict(built.run("select name, hash from training_sets"))
    for name in QUERIES:
        assert hashes[name] == hashes[f"{name} again"] != hashes[f"{name} now"]
    built.run("update pipeline.feature_store_builds set kept_from = now()")
    with pytest.raises(CheckViolation, match="is not complete any more"):
        is_same(built, "day")


def test_the_hash_does_not_depend_on_the_session_or_the_order_and_counts_repetitions(built: Database) -> None:
    moments = "select idx, known_from, scd_a, interval '1 day 1 hour' as pause from feature_history"
    make(built, "moments", moments)
    with built.connect("ds_user") as connection:
        for setting in ("timezone = 'Asia/Tokyo'", "datestyle = 'German'", "extra_float_digits = -3"):
            connection.execute(f"set {setting}")
        connection.execute("set intervalstyle = 'iso_8601'")
        assert connection.execute("select is_same from repeat_training_set('moments')").fetchall() == [(True,)]
    for name, query in {
        "one": "select 1",
        "twice": "values (1), (1)",
        "none": "select 1 where false",
        "two": "values (1), (2)",
        "two from behind": "values (2), (1)",
        "sum": "select sum(n::numeric) from (values (1e16::float8), (1), (-1e16)) as given (n)",
        "sum in another order": "select sum(n::numeric) from (values (1e16::float8), (-1e16), (1)) as given (n)",
    }.items():
        make(built, name, query)
    hashes: dict[str, str] = dict(built.run("select name, hash from training_sets"))
    assert hashes["two"] == hashes["two from behind"]
    assert hashes["sum"] == hashes["sum in another order"]
    assert len({hashes[name] for name in ("one", "twice", "none", "two")}) == 4


BEYOND_ITS_CALLER = [
    "delete from feature_store returning idx",
    "with gone as (delete from feature_store returning idx) select * from gone",
    "select 1) as made; delete from feature_store; select 1 from (select 1",
    "select * from pipeline.loads",
    "select pipeline.record_training_set('forged', '', now(), 1, '')",
]


def test_a_query_is_run_for_its_login_alone_with_its_rights_and_only_a_function_writes_the_registry(
    built: Database,
) -> None:
    for query in BEYOND_ITS_CALLER:
        with pytest.raises((InsufficientPrivilege, psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported)):
            make(built, "a", query)
    assert built.run("select count(*) from feature_store") == [(3,)]
    assert built.run("select count(*) from training_sets") == [(0,)]
    for user in ("ds_user", "mle_user"):
        make(built, user, user=user)
        assert is_same(built, user, user)
        for statement in (
            "insert into training_sets (name) values ('forged')",
            "update training_sets set hash = 'forged'",
            "delete from training_sets",
            "select * from pipeline.training_sets",
            "select pipeline.record_training_set('forged', '', now(), 1, '')",
        ):
            with pytest.raises(InsufficientPrivilege):
                built.run(statement, user)
    for user in ("mle_user", "admin"):
        with pytest.raises(CheckViolation, match=r'"ds_user" was made by ds_user.* Log in as ds_user'):
            is_same(built, "ds_user", user)
