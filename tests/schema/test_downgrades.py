"""Each revision is downgraded and upgraded again while there are rows, and everything can be loaded afterwards."""

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from conftest import ROOT, Database, Files
from support.steps import MAINTENANCE, Run, build_feature_store, csv_text, load_customers, load_month

pytestmark = pytest.mark.slow

MONTH = "2024-02-01"


def write(files: Files, version: int) -> None:
    """Files of all tables with the version in them, for stores in the location of one that sells nothing."""
    files.write("stores.csv", csv_text("idx,location", [(1, "Porto"), (2, f"Faro {version}")]))
    files.write(f"sales/{MONTH}/sales.csv", f"idx,value,date,store_idx\n1,{version},{MONTH},1\n")
    files.write("customer_profiles.csv", f"idx,attr_a,attr_b,attr_c\n1,{version},A,x\n")
    files.write("customer_activity.csv", f"idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,0.5,{version}\n")
    files.write("labels.csv", "idx,label\n1,1\n")


def load_all(database: Database) -> None:
    load_month(database, MONTH)
    load_customers(database)
    build_feature_store(database)
    Run(database, MAINTENANCE).run("discard_orphans", "compare_tables")


def assert_all_is_loaded(database: Database, version: int) -> None:
    assert database.run("select idx, location from stores order by 1") == [(1, "Porto"), (2, f"Faro {version}")]
    assert database.run("select idx, value, date::text, store_idx from sales") == [(1, version, MONTH, 1)]
    assert database.run("select store_idx, location, sale_month::text, value from monthly_sales") == [
        (1, "Porto", MONTH, version)
    ]
    assert database.run("select * from customer_profiles") == [(1, version, "A", "x")]
    assert database.run("select idx, scd_b from customer_activity") == [(1, version)]
    assert database.run("select * from labels") == [(1, 1)]
    for reader in ("ds_user", "mle_user"):
        assert database.run("select * from feature_store", reader) == [(1, version, "A", 0.5, version, 1)]
    assert database.run("select distinct status from data_freshness") == [("loaded",)]
    assert database.run("select status, row_count, total from month_status") == [("loaded", 1, version)]
    assert database.run("select compared_at is not null, difference from pipeline.files") == [(True, None)] * 5


def test_after_each_revision_was_downgraded_and_upgraded_everything_is_loaded_again(
    database: Database, files: Files
) -> None:
    write(files, 1)
    load_all(database)
    assert_all_is_loaded(database, 1)
    revisions = list(ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions())
    assert len(revisions) > 10
    for version, revision in enumerate(revisions, 2):
        print(revision.revision)
        for arguments in (["downgrade", str(revision.down_revision or "base")], ["upgrade", "head"]):
            done = database.alembic(*arguments)
            assert done.returncode == 0, (revision.revision, done.stderr)
        write(files, version)
        load_all(database)
        assert_all_is_loaded(database, version)
