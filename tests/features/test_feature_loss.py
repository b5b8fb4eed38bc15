"""A rebuild that would lose many clients keeps the tables, fails once, and is not repeated until a file changes."""

from collections.abc import Iterable

import psycopg
import pytest
from conftest import Database, Files
from psycopg.errors import CheckViolation
from support import csv_text
from support.steps import FEATURES, SQL, build_feature_store, connect, dag, load_customers, run_sql

CLIENTS = range(1, 11)


def write_customers(files: Files, profiles: Iterable[int], active: Iterable[int]) -> None:
    """Files with these clients in the profiles and the labels, and those in the activity."""
    ids = list(profiles)
    files.write("customer_profiles.csv", csv_text.profiles(*(f"{n},{n},A,x" for n in ids)))
    files.write("labels.csv", csv_text.labels(*(f"{n},0" for n in ids)))
    files.write("customer_activity.csv", csv_text.activity(*(f"{n},2020-01-01,,0.5,1" for n in active)))


@pytest.fixture
def built(database: Database, files: Files) -> Database:
    """A database with the features of ten clients, whose files then lack the activity of three."""
    write_customers(files, CLIENTS, CLIENTS)
    load_customers(database)
    build_feature_store(database)
    write_customers(files, CLIENTS, CLIENTS[3:])
    load_customers(database)
    return database


def features(database: Database) -> list[tuple[object, ...]]:
    """The clients of both tables, with the places of their rows: rows that are written again have other ones."""
    return database.run("""
        select idx, ctid::text from feature_store union all select idx, ctid::text from feature_history order by 1, 2
    """)


def daily_run_builds(database: Database) -> object:
    """What check_staleness.sql answers to a run that was not triggered by hand."""
    answer: list[tuple[object, ...]] = []
    with connect(database) as connection:
        text = (SQL / "feature_store" / "check_staleness.sql").read_text()
        run_sql(connection, text, {"run_type": "scheduled"}, answer=answer)
    return answer[0][0]


def test_a_shifted_activity_keeps_the_features_and_fails_once_until_a_corrected_file_comes(
    database: Database, files: Files
) -> None:
    attempts = "select max(attempt) from pipeline.rejected_builds"
    database.run("alter table pipeline.rejected_builds add column attempt bigint generated always as identity")
    write_customers(files, CLIENTS, CLIENTS)
    load_customers(database)
    build_feature_store(database)
    before = features(database)
    assert len(before) == 2 * len(CLIENTS)

    write_customers(files, CLIENTS, [n + 1000 for n in CLIENTS])
    load_customers(database)
    assert daily_run_builds(database) is True
    for attempt in (1, 2):  # the second one is triggered by hand
        with pytest.raises(CheckViolation):
            build_feature_store(database, max_loss="20")
        assert database.run(attempts) == [(attempt,)]
        assert features(database) == before
        assert daily_run_builds(database) is False
    assert database.run("select count(*) from pipeline.feature_store_builds") == [(1,)]
    assert database.run("select status from data_freshness where table_name = 'feature_store'") == [("stale",)]

    write_customers(files, CLIENTS, CLIENTS[1:])
    load_customers(database)
    assert daily_run_builds(database) is True
    build_feature_store(database, max_loss="20")
    assert database.run("select idx from feature_store order by idx") == [(n,) for n in CLIENTS[1:]]
    assert database.run(attempts) == [(None,)]
    assert daily_run_builds(database) is False


def test_the_message_has_both_counts_and_the_way_out(built: Database) -> None:
    with pytest.raises(CheckViolation) as rejected:
        build_feature_store(built, max_loss="29")
    assert rejected.value.diag.message_primary == (
        "feature_store: 3 of 10 clients would be lost, and 7 would be in the table. At most 29 % may be lost, so it"
        " stays as it was. Correct the customer files. If the clients are meant to go, raise FEATURE_STORE_MAX_LOSS and"
        " trigger feature_store."
    )
    assert built.run("select count(*) from feature_store") == [(10,)]


def test_a_loss_that_the_setting_allows_is_built_also_after_it_was_rejected(built: Database) -> None:
    with pytest.raises(CheckViolation):
        build_feature_store(built, max_loss="0")
    build_feature_store(built, max_loss="30")
    assert built.run("select count(*) from feature_store") == [(7,)]
    assert built.run("select count(*) from pipeline.rejected_builds") == [(0,)]


def test_clients_that_others_replace_are_lost(database: Database, files: Files) -> None:
    for profiles in (CLIENTS, [n + 1000 for n in CLIENTS]):
        write_customers(files, profiles, profiles)
        load_customers(database)
        if profiles is CLIENTS:
            build_feature_store(database)
    with pytest.raises(CheckViolation, match="10 of 10 clients would be lost, and 10 would be in the table"):
        build_feature_store(database, max_loss="20")


def test_only_a_person_approves_a_loss_and_once(built: Database) -> None:
    for decided_by in ("'ON_ANOMALY=protect'", "'ON_ANOMALY=warn'", "null"):
        built.run(f"update pipeline.loads set decided_by = {decided_by} where status = 'published'")
        with pytest.raises(CheckViolation):
            build_feature_store(built, max_loss="20")
    built.run(
        "update pipeline.loads set decided_by = 'anna' from pipeline.files"
        " where loads.file_id = files.file_id and status = 'published' and table_name = 'customer_activity'"
    )
    build_feature_store(built, max_loss="20")
    assert built.run("select count(*) from feature_store") == [(7,)]
    built.run("delete from customer_activity where idx < 9")
    with pytest.raises(CheckViolation, match="5 of 7 clients would be lost"):
        build_feature_store(built, max_loss="20")


def test_without_its_settings_a_rebuild_fails_also_in_a_session_that_had_them(built: Database) -> None:
    before = features(built)
    *given, find, resolve, write, _, _ = dag(FEATURES).get_task("refresh_feature_store").sql
    files = "".join((find, resolve, write)).encode()
    with connect(built) as connection:
        with pytest.raises(psycopg.errors.UndefinedObject, match='unrecognized configuration parameter "pipeline'):
            connection.execute(files)
        with connection.transaction(force_rollback=True):
            for text in (*given, find, resolve, write):
                connection.execute(text.encode())
        with pytest.raises(psycopg.DataError, match=r'invalid input syntax for type (numeric|interval): ""'):
            connection.execute(files)
    assert features(built) == before
