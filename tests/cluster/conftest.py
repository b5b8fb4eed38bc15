"""Fixtures that stand for those of other folders: the servers of a cluster that runs already."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Database, drop_database, new_database
from support import breakpoints

from deploy.citus.cluster import CitusCluster

# The files of other folders whose tests run on the cluster, too: what is not here does not depend on where rows are, or
# starts servers of its own.
ALSO_HERE = (
    "features/test_feature_history.py",
    "features/test_feature_loss.py",
    "features/test_first_publication.py",
    "features/test_training_sets.py",
    "loads/test_concurrency.py",
    "loads/test_crashes.py",
    "loads/test_interleaved_runs.py",
    "loads/test_loads.py",
    "loads/test_random_runs.py",
    "operation/test_maintenance.py",
    "operation/test_status.py",
    "roles/test_privileges.py",
    "sql/test_sql_steps.py",
    "workflows/test_workflows.py",
)
NOT_HERE: dict[str, str] = {}

DISTRIBUTED = (
    *("public.sales", "public.customer_profiles", "public.customer_activity", "public.labels"),
    *("public.feature_history", "public.feature_store"),
)
# They admit no trigger.
breakpoints.PLACES[:] = [place for place in breakpoints.PLACES if place not in DISTRIBUTED]


class AlsoHere(pytest.File):
    """Collects the tests of other folders with the fixtures of this one."""

    def collect(self) -> Iterator[pytest.Module]:
        for name in ALSO_HERE:
            yield pytest.Module.from_parent(self, path=ROOT / "tests" / name)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> AlsoHere | None:
    return AlsoHere.from_parent(parent, path=file_path) if file_path == Path(__file__) else None


@pytest.fixture(scope="session")
def cluster() -> Iterator[CitusCluster]:
    with CitusCluster.cleared() as given:
        yield given


@pytest.fixture(scope="session")
def template(cluster: CitusCluster) -> Iterator[Database]:
    database = new_database(cluster, "test_migrated")
    done = database.alembic("upgrade", "head")
    assert done.returncode == 0, done.stderr
    cluster.distribute(database.name)
    yield database
    drop_database(database)
