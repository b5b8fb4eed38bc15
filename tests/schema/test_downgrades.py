"""Each revision is undone and made again beside rows: it leaves nothing, and everything can be loaded afterwards."""

import re

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from conftest import ROOT, Database, Files
from support import versions
from support.steps import MAINTENANCE, Run, build_feature_store, load_customers, load_month
from support.versions import FEBRUARY, JANUARY, ROWS

from docs import generate

pytestmark = pytest.mark.slow

# What these revisions make is read by no load, or is as empty after them as after the one before.
NOT_LOADED_AFTER = {"0110", "0109", "0103", "0102"}
# Roles belong to the server, so a dump of the database does not show them; test_migrations.py logs in with them.
NOT_IN_A_DUMP = {"0101"}
# The tables of a load and of a month, and the privileges that the first build of the features grants.
MADE_BY_LOADS = re.compile(
    r"(staging\.\w+_|partitions\.sales_20)\d|GRANT.*feature_(store|history) TO (ds|mle)_user_role"
)


def load_version(database: Database, files: Files, version: int) -> None:
    """Load a version of February and of the customers, and build the features."""
    versions.write_sales(files, version, FEBRUARY)
    versions.write_customers(files, version)
    load_month(database, FEBRUARY)
    load_customers(database)
    build_feature_store(database)
    Run(database, MAINTENANCE).run("discard_orphans", "compare_tables")


def assert_all_is_loaded(database: Database, version: int, kept: bool) -> None:
    """The version is loaded, and the first one of January where that was kept."""
    months = {JANUARY: 1, FEBRUARY: version} if kept else {FEBRUARY: version}
    assert database.run(versions.EVERYTHING) == versions.seen(months, version)
    for reader in ("ds_user", "mle_user"):
        assert database.run("select * from feature_store order by idx", reader) == [
            (client, version, "A", version, 1, 0) for client in versions.clients_of(version)
        ]
        loaded = "select file_month::text, row_count, total from month_status where status = 'loaded' order by 1"
        assert database.run(loaded, reader) == [(month, ROWS, ROWS * value) for month, value in months.items()]
    assert database.run("select distinct status from data_freshness") == [("loaded",)]
    assert database.run("select distinct compared_at is not null, difference from pipeline.files") == [(True, None)]


def test_each_revision_leaves_nothing_when_it_is_undone_and_everything_is_loaded_when_it_is_made_again(
    empty_database: Database, template: Database, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The template keeps the roles in use, which are of the server and not of the database.
    database = empty_database
    monkeypatch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", database.url("pipeline"))
    monkeypatch.setenv("DATABASE_URL", database.url())
    config = Config(ROOT / "alembic.ini")
    revisions = list(ScriptDirectory.from_config(config).walk_revisions())
    assert len(revisions) > 10
    config.config_file_name = None  # read by now; it would set up logging again

    def made() -> list[str]:
        # Without white space: a revision may bring a function back as it was, but indented like its own text.
        statements = generate.snapshot(database.cluster, database.name).split(";\n")
        return ["".join(each.split()) for each in statements if not MADE_BY_LOADS.search(each)]

    left = {"base": made()}
    for revision in reversed(revisions):
        command.upgrade(config, revision.revision)
        left[revision.revision], before = made(), left[str(revision.down_revision or "base")]
        assert (left[revision.revision] == before) == (revision.revision in NOT_IN_A_DUMP), revision.revision

    versions.write_sales(files, 1, JANUARY)
    load_month(database, JANUARY)
    load_version(database, files, 1)
    assert_all_is_loaded(database, 1, kept=True)
    for version, revision in enumerate(revisions, 2):
        print(revision.revision)
        before_it = str(revision.down_revision or "base")
        command.downgrade(config, before_it)
        assert made() == left[before_it]
        command.upgrade(config, "head")
        # The rows of a table outlast the downgrades to the revision that makes it.
        kept = [("customer_profiles", "0105"), ("labels", "0105"), ("sales", "0106"), ("monthly_sales", "0106")]
        for table, revision_id in kept:
            assert database.run(f"select count(*) > 0 from {table}") == [(revision.revision > revision_id,)], table
        if revision.revision not in NOT_LOADED_AFTER:
            load_version(database, files, version)
            assert_all_is_loaded(database, version, revision.revision > "0106")
