"""A rebuild that would lose many clients keeps the tables, fails once, and is not repeated until a file changes."""

from collections.abc import Iterable

import psycopg
import pytest
from conftest import Database, Files
from psycopg.errors import CheckViolation
from support.bucket_files import write_customers
from support.steps import FEATURES, SQL, build_feature_store, connect, dag, load_customers, run_sql

CLIENTS = range(1, 11)


def write_clients(files: Files, profiles: Iterable[int], active: Iterable[int]) -> None:
    """Files with these clients in the profiles and the labels, and those in the activity."""
    ids = list(profiles)
    activity = (f"{n},2020-01-01,,0.5,1" for n in active)
    write_customers(files, (f"{n},{n},A,x" for n in ids), activity, (f"{n},0" for n in ids))


@pytest.fixture
def built(database: Database, files: Files) -> Database:
    """A database with the features of ten clients, whose files then lack the activity of three."""
    write_clients(files, CLIENTS, CLIENTS)
    load_customers(database)
    build_feature_store(database)
    write_clients(files, CLIENTS, CLIENTS[3:])
    load_customers(database)
    return database


def features(database: Database) -> list[tuple[object, ...]]:
    """The clients of both tables, with the places of their rows: rows that are written again have other ones."""
    return database.run("""
        select idx, ctid::text from feature_store union all select idx, ctid::text from feature_history order by 1, 2
    """)


def builds(database: Database, run_type: str = "scheduled") -> object:
    """What check_staleness.sql answers to a run of this type."""
    answer: list[tuple[object, ...]] = []
    with connect(database) as connection:
        text = (SQL / "feature_store" / "check_staleness.sql").read_text()
        run_sql(connection, text, {"run_type": run_type}, answer=answer)
    return answer[0][0]


def test_a_shifted_activity_keeps_the_features_and_fails_once_until_a_corrected_file_comes(
    database: Database, files: Files
) -> None:
    attempts = "select max(attempt) from pipeline.rejected_builds"
    database.run("alter table pipeline.rejected_builds add column attempt bigint generated always as identity")
    write_clients(files, CLIENTS, CLIENTS)
    load_customers(database)
    build_feature_store(database)
    before = features(database)
    assert len(before) == 2 * len(CLIENTS)

    write_clients(files, CLIENTS, [n + 1000 for n in CLIENTS])
    load_customers(database)
    assert builds(database) is True
    for attempt in (1, 2):  # the second one is triggered by hand
        with pytest.raises(CheckViolation):
            build_feature_store(database, max_loss="20")
        assert database.run(attempts) == [(attempt,)]
        assert features(database) == before
        # The daily run does not try again; the run that a publication started does, if it is cleared.
        assert [builds(database, kind) for kind in ("scheduled", "asset_triggered", "manual")] == [False, True, True]
    assert database.run("select count(*) from pipeline.feature_store_builds") == [(1,)]
    [(status, error)] = database.run("select status, error from data_freshness where table_name = 'feature_store'")
    assert (status, "10 of 10 clients would be lost" in error) == ("stale", True)

    write_clients(files, CLIENTS, CLIENTS[1:])
    load_customers(database)
    assert builds(database) is True
    build_feature_store(database, max_loss="20")
    assert database.run("select idx from feature_store order by idx") == [(n,) for n in CLIENTS[1:]]
    assert database.run(attempts) == [(None,)]
    assert builds(database) is False

    # Clients that others replace are lost.
    write_clients(files, [n + 1000 for n in CLIENTS], [n + 1000 for n in CLIENTS])
    load_customers(database)
    with pytest.raises(CheckViolation, match="9 of 9 clients would be lost, and 10 would be in the table"):
        build_feature_store(database, max_loss="20")


def test_only_the_setting_or_a_person_who_approves_a_loss_once_allows_it(built: Database) -> None:
    with pytest.raises(CheckViolation) as rejected:
        build_feature_store(built, max_loss="29")
    assert rejected.value.diag.message_primary == (
        "feature_store: 3 of 10 clients would be lost, and 7 would be in the table. At most 29 % may be lost, so it"
        " stays as it was. Correct the customer files. If the clients are meant to go, raise FEATURE_STORE_MAX_LOSS and"
        " trigger feature_store."
    )
    for decided_by in ("'ON_ANOMALY=protect'", "'ON_ANOMALY=warn'", "null"):
        built.run(f"update pipeline.loads set decided_by = {decided_by} where status = 'published'")
        with pytest.raises(CheckViolation):
            build_feature_store(built, max_loss="20")
    assert built.run("select count(*) from feature_store") == [(10,)]
    build_feature_store(built, max_loss="30")
    assert built.run("select count(*) from feature_store") == [(7,)]
    assert built.run("select count(*) from pipeline.rejected_builds") == [(0,)]

    load_customers(built)
    built.run(
        "update pipeline.loads set decided_by = 'anna' from pipeline.files"
        " where loads.file_id = files.file_id and status = 'published' and table_name = 'customer_activity'"
    )
    # A usual file that follows takes nothing back.
    approved = built.run("select max(load_id) from pipeline.loads")
    load_customers(built)
    built.run("delete from customer_activity where idx < 9")
    assert built.run("select max(load_id) from pipeline.loads") > approved
    build_feature_store(built, max_loss="20")
    assert built.run("select count(*) from feature_store") == [(2,)]
    built.run("delete from customer_activity where idx = 9")
    with pytest.raises(CheckViolation, match="1 of 2 clients would be lost"):
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
