"""Each revision is downgraded and upgraded again while there are rows, and everything can be loaded afterwards."""

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from conftest import ROOT, Database, Files
from support import csv_text
from support.bucket_files import write_customers, write_month
from support.steps import MAINTENANCE, Run, build_feature_store, load_customers, load_month

pytestmark = pytest.mark.slow

BEFORE, MONTH = "2024-01-01", "2024-02-01"
# What these revisions make is read by no load, or is as empty after them as after the one before.
NOT_LOADED_AFTER = {"0110", "0109", "0103", "0102"}


def write(files: Files, version: int) -> None:
    """Files of all tables with the version in them, for stores in the location of one that sells nothing."""
    write_month(files, MONTH[:7], f"1,{version},{MONTH},1")
    files.write("stores.csv", csv_text.stores("1,Porto", f"2,Faro {version}"))
    write_customers(files, [f"1,{version},A,x"], [f"1,2020-01-01,,0.5,{version}"], ["1,1"])


def load_all(database: Database) -> None:
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    Run(database, MAINTENANCE).run("discard_orphans", "compare_tables")


def assert_all_is_loaded(database: Database, version: int, kept: bool) -> None:
    """The version is loaded; of the month before it, and the store that only that one's list had, what was kept."""
    before = [(BEFORE, 1, 7)] if kept else []
    stores = [(1, "Porto"), (2, f"Faro {version}"), *([(3, "Lagos")] if kept else [])]
    assert database.run("select idx, location from stores order by 1") == stores
    sales = database.run("select date::text, value, store_idx from sales order by date")
    assert sales == [*((month, value, 3) for month, _, value in before), (MONTH, version, 1)]
    sums = database.run("select sale_month::text, location, value from monthly_sales order by 1")
    assert sums == [*((month, "Lagos", value) for month, _, value in before), (MONTH, "Porto", version)]
    assert database.run("select * from customer_profiles") == [(1, version, "A", "x")]
    assert database.run("select idx, scd_b from customer_activity") == [(1, version)]
    assert database.run("select * from labels") == [(1, 1)]
    for reader in ("ds_user", "mle_user"):
        assert database.run("select * from feature_store", reader) == [(1, version, "A", 0.5, version, 1)]
        months = database.run(
            "select file_month::text, row_count, total from month_status where status = 'loaded'", reader
        )
        assert months == [*before, (MONTH, 1, version)]
    assert database.run("select distinct status from data_freshness") == [("loaded",)]
    assert database.run("select distinct compared_at is not null, difference from pipeline.files") == [(True, None)]


def test_after_each_revision_was_downgraded_and_upgraded_everything_is_loaded_again(
    database: Database, files: Files
) -> None:
    files.write(f"sales/{BEFORE}/sales.csv", csv_text.sales(f"1,7,{BEFORE},3"))
    files.write("stores.csv", csv_text.stores("3,Lagos"))
    load_month(database, BEFORE)
    write(files, 1)
    load_all(database)
    assert_all_is_loaded(database, 1, kept=True)
    revisions = list(ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions())
    assert len(revisions) > 10
    for version, revision in enumerate(revisions, 2):
        print(revision.revision)
        database.migrate(f"downgrade {revision.down_revision or 'base'}", "upgrade head")
        # The rows of a table outlast the downgrades to the revision that makes it.
        kept = [("customer_profiles", "0105"), ("labels", "0105"), ("sales", "0106"), ("monthly_sales", "0106")]
        for table, revision_id in kept:
            assert database.run(f"select count(*) > 0 from {table}") == [(revision.revision > revision_id,)], table
        if revision.revision not in NOT_LOADED_AFTER:
            write(files, version)
            load_all(database)
            assert_all_is_loaded(database, version, revision.revision > "0106")
