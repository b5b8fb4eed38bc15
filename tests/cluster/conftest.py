"""Fixtures that stand for those of other folders, and the tests of other folders that run on the cluster too."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Database, drop_database, new_database
from support import breakpoints

from deploy.citus.cluster import CitusCluster

# What is not here does not depend on where rows are, or starts servers of its own.
ALSO_HERE = (
    "features/test_feature_history.py",
    "features/test_feature_loss.py",
    "features/test_first_publication.py",
    "features/test_training_sets.py",
    "loads/test_concurrency.py",
    "loads/test_crashes.py",
    "loads/test_interleaved_runs.py",
    "loads/test_loads.py",
    "operation/test_maintenance.py",
    "operation/test_status.py",
    "roles/test_privileges.py",
    "sql/test_sql_steps.py",
    "workflows/test_workflows.py",
)

DISTRIBUTED = (
    *("public.sales", "public.customer_profiles", "public.customer_activity", "public.labels"),
    *("public.feature_history", "public.feature_store"),
)
# A point is a trigger, which these tables cannot have.
breakpoints.PLACES[:] = [place for place in breakpoints.PLACES if place not in DISTRIBUTED]

# Why, and the tests whose names begin so.
CASE = "test_case_twice_as_its_task_runs_it["
NOT_HERE = {
    "the servers do not commit at the same moment": (
        "test_customer_loads_and_rebuilds_of_the_feature_store_at_once",
        "test_one_month_many_times_at_once",
        "test_loads_go_on_beside_sessions_that_hold_every_table_open",
    ),
    "a trigger on a distributed table, or a pause in one": (
        f"{CASE}customers-publish_customers-a_trigger_that",
        f"{CASE}sales-publish_month-a_trigger_that_changes_a_sale",
        f"{CASE}sales-publish_month-a_trigger_that_drops_all_sales",
        f"{CASE}sales-publish_month-a_trigger_that_drops_sales",
        f"{CASE}sales-publish_month-a_trigger_that_keeps_deleted_sales",
        "test_a_connection_that_drops_at_any_point",
        "test_a_foreign_key_onto_monthly_sales_that_comes_while_the_month_is_loaded",
        "test_a_loading_process_that_is_killed_leaves_the_old_month_and_the_retry_works[insert public.sales",
        "test_a_rebuild_waits_for_another",
        "test_a_server_that_crashes_leaves_the_old_month",
        "test_airflow_brings_a_month_to_its_end_through_dropped_connections",
        "test_customers_and_features_that_are_cut_off",
        "test_every_session_of_a_task",
        "test_four_months_side_by_side",
        "test_of_two_runs_that_publish_one_month_at_once",
        "test_readers_see_the_old_version",
    ),
    "a foreign key of a local table is not checked when the row of a distributed one goes": (
        "test_a_load_touches_no_store_and_no_client",
        "test_a_transaction_that_refers_to_rows",
    ),
    "mle_user does not truncate a partitioned table": (
        "test_a_table_that_was_emptied_by_hand_is_built_again[feature_history]",
        "test_mle_user_writes_every_table",
    ),
    "a function with a return body does not read a distributed table": ("test_functions_and_views_on_closed_features",),
    "an error of another server has no class": ("test_a_first_build_that_fails",),
    "partitions are not detached concurrently": ("test_a_month_is_taken_out_beside_readers",),
    "plans and statistics are those of other servers": (
        "test_a_client_is_looked_up_by_an_index",
        "test_a_load_that_was_not_published_for_30_days",
    ),
    "the extension has views in public": ("test_public_holds_the_tables",),
    "the same statements as the task's": ("test_case_twice_by_the_line_of_the_readme_in_psql",),
    "the servers log in as the owner of the tables": ("test_functions_with_the_rights_of_their_owner_have_no_rights",),
    "the servers do not log in as a role that was set": (
        "test_a_table_that_is_created_later_is_read_by_ds_user_and_managed_by_mle_user[mle_user acting",
    ),
}


class AlsoHere(pytest.File):
    """Collects the tests of other folders with the fixtures of this one."""

    def collect(self) -> Iterator[pytest.Module]:
        for name in ALSO_HERE:
            yield pytest.Module.from_parent(self, path=ROOT / "tests" / name)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> AlsoHere | None:
    return AlsoHere.from_parent(parent, path=file_path) if file_path == Path(__file__) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not any(item.getparent(AlsoHere) for item in items):
        return
    for reason, names in NOT_HERE.items():
        for name in names:
            found = [item for item in items if item.name.startswith(name)]
            assert found, f"{name}: no test begins so"
            for item in found:
                item.add_marker(pytest.mark.skip(reason=f"on a cluster: {reason}"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[CitusCluster]:
    with CitusCluster.cleared() as given:
        yield given


@pytest.fixture(scope="session")
def template(cluster: CitusCluster) -> Iterator[Database]:
    database = new_database(cluster, "test_migrated")
    database.migrate("upgrade head")
    cluster.distribute(database.name)
    yield database
    drop_database(database)
