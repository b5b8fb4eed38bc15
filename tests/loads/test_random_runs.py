"""Random sequences of loads, corrections and faults: after each step every table equals a model of it.

The sequences come from Hypothesis, which reduces a failing one to the shortest that fails. RANDOM_SEED and
RANDOM_EXAMPLES make another or a longer search.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database, Rows, drop_database, new_database
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support import transitions
from support.faulty_bucket import Answer, broken_chunks, cut, misbehaving, packed, page, reset, status
from support.steps import CUSTOMERS, MAINTENANCE, SALES, Run, build_feature_store, csv_text

from company_data.errors import FileRejected, SourceUnavailable
from embedded.postgres import Cluster

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("RANDOM_SEED", "20240203"))
EXAMPLES = int(os.environ.get("RANDOM_EXAMPLES", "10"))
STEPS = 20
DATABASE = "test_random"

MONTHS = ("2023-12-01", "2024-01-01", "2024-02-01")
CITIES = ("Porto", "Faro", "Braga")

Sale = tuple[int, Decimal, date, int]

# Where a session is terminated: the condition of a trigger, by the table and the operations that fire it.
MONTH_FAULTS = {
    "before the request": ("pipeline.loads", "update", "new.requested_at is distinct from old.requested_at"),
    "when staged": ("pipeline.loads", "update", "new.status = 'staged'"),
    "when checked": ("pipeline.loads", "update", "new.status = 'checked'"),
    "when published": ("pipeline.loads", "update", "new.status = 'published'"),
    "before the stores change": ("public.stores", "insert or update or delete", "true"),
    "before a sale is deleted": ("public.sales", "delete", "true"),
    "before a sale is inserted": ("public.sales", "insert", "true"),
    "before a row of monthly_sales is deleted": ("public.monthly_sales", "delete", "true"),
    "before a row of monthly_sales is inserted": ("public.monthly_sales", "insert or update", "true"),
}
CUSTOMER_FAULTS = {
    f"before a row of {table} is {event}d".replace("insertd", "inserted"): (f"public.{table}", event, "true")
    for table in ("customer_profiles", "customer_activity", "labels")
    for event in ("delete", "insert")
}
FEATURE_FAULTS = {
    "before a client of the feature history changes": ("public.feature_history", "insert or update", "true"),
    "before a client of the feature store changes": ("public.feature_store", "insert or update or delete", "true"),
    "before the hash of a client changes": ("pipeline.client_hashes", "insert or delete", "true"),
    "after the last client is written": ("pipeline.feature_store_builds", "insert", "true"),
}
FAULTS = MONTH_FAULTS | CUSTOMER_FAULTS | FEATURE_FAULTS

STRIKE = """
    create table partitions.fault (point text);
    create function partitions.strike() returns trigger language plpgsql security definer as $$
    begin
        if exists (select from partitions.fault where point = tg_argv[0]) then
            perform pg_terminate_backend(pg_backend_pid());
        end if;
        return coalesce(new, old);
    end
    $$;
"""

days = st.integers(0, 30)
# Most often all five stores; a load of sales of one that no list ever had is rejected.
stores = st.builds(
    lambda cities, missing: {store: city for store, city in enumerate(cities, 1) if store != missing},
    st.lists(st.sampled_from(CITIES), min_size=5, max_size=5),
    st.none() | st.integers(1, 5),
)
month_of_sales = st.lists(st.tuples(st.decimals(-999, 99_999, places=2), days, st.integers(1, 5)), max_size=8)
clients = st.integers(0, 9)
activity = st.tuples(
    clients, st.integers(0, 5), st.none() | st.integers(0, 6), st.none() | st.floats(-9, 9), st.integers(0, 9)
)

# The days of activity, one before and one after them.
START = date(2020, 1, 1)
DAYS = [START + timedelta(days=number) for number in range(-1, 8)]

customers = st.tuples(
    st.dictionaries(clients, st.tuples(st.integers(0, 9), st.sampled_from("AB")), min_size=3),
    st.lists(activity, min_size=3, max_size=12),
    st.dictionaries(clients, st.integers(0, 1), min_size=3),
)


@dataclass
class Model:
    """What the tables should hold."""

    stores: dict[int, str] = field(default_factory=dict)
    sales: dict[str, list[Sale]] = field(default_factory=dict)
    monthly: dict[str, dict[int, tuple[str, Decimal]]] = field(default_factory=dict)
    profiles: Rows = field(default_factory=list)
    activity: Rows = field(default_factory=list)
    labels: Rows = field(default_factory=list)
    features: Rows = field(default_factory=list)
    # The features on each day, by the moment from which they were known.
    known: dict[datetime, set[tuple[Any, ...]]] = field(default_factory=dict)


@dataclass
class World:
    """Where the machines run, one after the other."""

    cluster: Cluster
    template: Database
    folder: Path
    answers: dict[str, list[Answer]]
    struck: Counter[str] = field(default_factory=Counter)


class Machine(RuleBasedStateMachine):
    """The bucket's files, a database, its model, and the steps that change all three."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        world = self.world
        world.cluster.drop_database(DATABASE)  # of an example that could not begin
        self.database = new_database(world.cluster, DATABASE, world.template.name)
        os.environ["AIRFLOW_CONN_OPERATIONAL_DB"] = self.database.url("pipeline")
        self.admin = self.database.connect()
        install_faults(self.admin)
        transitions.record(self.admin)
        self.model = Model()
        self.runs: list[Run] = []
        self.stores = dict.fromkeys(range(1, 6), "Porto")
        self.sales: dict[str, list[Sale]] = {month: [] for month in MONTHS}
        self.customers: tuple[Rows, Rows, Rows] = ([], [], [])
        self.write_stores()
        for month in MONTHS:
            self.write_sales(month)
        self.write_customers()

    def teardown(self) -> None:
        assert transitions.unlisted(transitions.seen(self.admin)) == set()
        self.admin.close()
        drop_database(self.database)

    # Files

    def write(self, path: str, header: str, rows: Sequence[Sequence[object]]) -> None:
        file = self.world.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(csv_text(header, [["" if value is None else value for value in row] for row in rows]))

    def write_stores(self) -> None:
        self.write("stores.csv", "idx,location", list(self.stores.items()))

    def write_sales(self, month: str, extra: Sequence[Sequence[object]] = ()) -> None:
        self.write(f"sales/{month}/sales.csv", "idx,value,date,store_idx", [*self.sales[month], *extra])

    def write_customers(self, extra_labels: Sequence[Sequence[object]] = ()) -> None:
        profiles, activity_rows, labels = self.customers
        self.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c", profiles)
        self.write("customer_activity.csv", "idx,valid_from,valid_to,scd_a,scd_b", activity_rows)
        self.write("labels.csv", "idx,label", [*labels, *extra_labels])

    def correct(self, month: str, rows: list[tuple[Decimal, int, int]] | None, changed: dict[int, str] | None) -> None:
        """Write another file for the month, another store list, or both."""
        if changed is not None:
            self.stores = changed
            self.write_stores()
        if rows is None:
            return
        first = date.fromisoformat(month)
        length = ((first + timedelta(days=32)).replace(day=1) - first).days
        self.sales[month] = [
            (number, value, first + timedelta(days=day % length), store)
            for number, (value, day, store) in enumerate(rows)
        ]
        self.write_sales(month)

    def change_customers(self, files: tuple[dict[int, Any], list[Any], dict[int, int]] | None) -> None:
        """Write other customer files."""
        if files is None:
            return
        profiles, periods, labels = files
        self.customers = (
            [(client, *attributes, "x") for client, attributes in profiles.items()],
            [
                (client, START + timedelta(begin), None if end is None else START + timedelta(end), a, b)
                for client, begin, end, a, b in periods
            ],
            list(labels.items()),
        )
        self.write_customers()

    # Loads

    def expect_month(self, month: str) -> None:
        self.model.stores |= self.stores  # a store that the newest list lacks stays
        self.model.sales[month] = list(self.sales[month])
        self.expect_monthly(month)

    def expect_monthly(self, month: str) -> None:
        sums: dict[int, Decimal] = {}
        for _, value, _, store in self.model.sales[month]:
            sums[store] = sums.get(store, Decimal()) + value
        self.model.monthly[month] = {store: (self.model.stores[store], value) for store, value in sums.items()}

    def stores_are_known(self, month: str) -> bool:
        return {store for *_, store in self.sales[month]} <= {*self.stores, *self.model.stores}

    @rule(month=st.sampled_from(MONTHS), rows=st.none() | month_of_sales, changed=st.none() | stores)
    def load_a_month(
        self, month: str, rows: list[tuple[Decimal, int, int]] | None, changed: dict[int, str] | None
    ) -> None:
        self.correct(month, rows, changed)
        run = Run(self.database, SALES, month)
        if self.stores_are_known(month):
            run.run()
            self.expect_month(month)
            self.runs.append(run)
        else:
            with pytest.raises(psycopg.errors.CheckViolation, match=r"stores that stores\.csv lacks"):
                run.run()

    @rule(
        month=st.sampled_from(MONTHS),
        bad=st.sampled_from(
            ["1,1,{before},1", "1,1,{first},99", "1,NaN,{first},1", "1,abc,{first},1", "1,1,{first}", '"1,1,{first},1']
        ),
    )
    def load_a_bad_month(self, month: str, bad: str) -> None:
        first = date.fromisoformat(month)
        self.write_sales(month, [bad.format(first=first, before=first - timedelta(days=1)).split(",")])
        with pytest.raises((FileRejected, psycopg.errors.CheckViolation)):
            Run(self.database, SALES, month).run()
        self.write_sales(month)

    @rule(
        month=st.sampled_from(MONTHS),
        of_stores=st.booleans(),
        part=st.floats(0, 0.99),
        kind=st.sampled_from([cut, reset, broken_chunks, lambda _: status(503), lambda _: page, lambda _: packed(9)]),
    )
    def load_from_a_faulty_source(
        self, month: str, of_stores: bool, part: float, kind: Callable[[int], Answer]
    ) -> None:
        path = "stores.csv" if of_stores else f"sales/{month}/sales.csv"
        length = (self.world.folder / path).stat().st_size
        self.world.answers[path] = [kind(int(length * part))]
        with pytest.raises((FileRejected, SourceUnavailable)):
            Run(self.database, SALES, month).run()
        assert not self.world.answers.pop(path)

    @rule(month=st.sampled_from(MONTHS), rows=month_of_sales, changed=stores)
    def load_a_month_with_connections_dropped_at_each_point(
        self, month: str, rows: list[tuple[Decimal, int, int]], changed: dict[int, str]
    ) -> None:
        """Nothing changes, unless a point is not reached, because there is nothing to write at it."""
        self.correct(month, rows, changed)
        if not self.stores_are_known(month):
            return
        for point in MONTH_FAULTS:
            with self.fault(point) as struck:
                Run(self.database, SALES, month).run()
            if not struck:
                self.expect_month(month)
            self.every_table_equals_the_model()

    def fault(self, point: str) -> "Fault":
        return Fault(self.admin, point, self.world.struck)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def clear_the_last_task_of_an_earlier_run(self, data: st.DataObject) -> None:
        """Nothing changes: the run's loads are published already, or superseded, and the task reports nothing."""
        run = data.draw(st.sampled_from(self.runs))
        before = self.found("select load_id, status, updated_at from pipeline.loads order by 1")
        assert run.run("publish_month") == []
        assert self.found("select load_id, status, updated_at from pipeline.loads order by 1") == before

    @rule()
    def compare_the_tables_with_the_ledger(self) -> None:
        """The maintenance finds that every row stands that was published."""
        Run(self.database, MAINTENANCE).run("compare_tables")
        assert self.found("select * from pipeline.files where difference is not null") == []

    @rule(files=st.none() | customers)
    def load_customers(self, files: tuple[dict[int, Any], list[Any], dict[int, int]] | None) -> None:
        self.change_customers(files)
        Run(self.database, CUSTOMERS).run()
        self.model.profiles, self.model.activity, self.model.labels = self.customers

    @rule(point=st.sampled_from(["before the request", "when staged", "when checked", "when published"]))
    def load_customers_with_a_dropped_connection(self, point: str) -> None:
        with self.fault(point) as struck:
            Run(self.database, CUSTOMERS).run()
        assert struck

    @rule(files=customers)
    def load_customers_with_connections_dropped_at_each_point(
        self, files: tuple[dict[int, Any], list[Any], dict[int, int]]
    ) -> None:
        """Nothing changes, unless a point is not reached, because there is nothing to write at it."""
        self.change_customers(files)
        for point in CUSTOMER_FAULTS:
            with self.fault(point) as struck:
                Run(self.database, CUSTOMERS).run()
            if not struck:
                self.model.profiles, self.model.activity, self.model.labels = self.customers
            self.every_table_equals_the_model()

    @rule()
    def load_bad_customers(self) -> None:
        self.write_customers([(1000, 0), (1000, 1)])
        with pytest.raises(psycopg.errors.CheckViolation, match="two different labels"):
            Run(self.database, CUSTOMERS).run()
        self.write_customers()

    @rule()
    def rebuild_features(self) -> None:
        build_feature_store(self.database)
        self.expect_features()

    @rule(files=customers)
    def rebuild_features_with_connections_dropped_at_each_point(
        self, files: tuple[dict[int, Any], list[Any], dict[int, int]]
    ) -> None:
        """Nothing changes, unless a point is not reached, because there is nothing to write at it."""
        self.load_customers(files)
        for point in FEATURE_FAULTS:
            with self.fault(point) as struck:
                build_feature_store(self.database)
            if not struck:
                self.expect_features()
            self.every_table_equals_the_model()

    def expect_features(self) -> None:
        [(moment,)] = self.found("select max(known_at) from pipeline.feature_store_builds")
        self.model.known[moment] = {(day, *row) for day in DAYS for row in self.features_on(day)}
        self.model.features = self.features_on(date.max)

    def features_on(self, day: date) -> Rows:
        """The features of each client on a day."""
        latest: dict[int, tuple[Any, ...]] = {}

        def rank(row: tuple[Any, ...]) -> tuple[Any, ...]:
            """The later of two rows: one that has not ended, then by end, beginning and attributes."""
            _, begin, end, a, b = row
            nothing = -float("inf")
            is_valid = end is None or end > day
            last_day = date.min if is_valid else end
            return (is_valid, last_day, begin, nothing if a is None else a, nothing if b is None else b)

        for row in sorted((row for row in self.model.activity if row[1] <= day), key=rank):
            latest[row[0]] = row
        labels: dict[int, int] = dict(self.model.labels)
        return [
            (idx, a, b, latest[idx][3], latest[idx][4], labels[idx])
            for idx, a, b, _ in self.model.profiles
            if idx in latest and idx in labels
        ]

    # Comparison

    def found(self, query: str) -> Rows:
        return self.admin.execute(query).fetchall()

    @invariant()
    def every_table_equals_the_model(self) -> None:
        model = self.model
        assert dict(self.found("select idx, location from stores")) == model.stores
        sales = [sale for month in model.sales.values() for sale in month]
        assert sorted(self.found("select idx, value, date, store_idx from sales")) == sorted(sales)
        monthly = {(month, store): row for month, rows in model.monthly.items() for store, row in rows.items()}
        assert {
            (str(month), store): (location, value)
            for month, store, location, value in self.found(
                "select sale_month, store_idx, location, value from monthly_sales"
            )
        } == monthly
        for table, expected in (
            ("customer_profiles", model.profiles),
            ("customer_activity", model.activity),
            ("labels", model.labels),
            ("feature_store", model.features),
        ):
            assert sorted(self.found(f"select * from {table}"), key=repr) == sorted(expected, key=repr)

    @invariant()
    def what_was_known_at_each_moment_equals_the_model(self) -> None:
        moments = list(self.model.known)
        found: dict[datetime, list[tuple[Any, ...]]] = {moment: [] for moment in moments}
        for moment, *row in self.admin.execute(
            """
            select known_at, day, features.*
            from unnest(%s::timestamptz[]) as moments (known_at)
            cross join unnest(%s::date[]) as days (day)
            cross join lateral feature_store_as_of(day, known_at) as features
            """,
            [moments, DAYS],
        ):
            found[moment].append(tuple(row))
        for moment in moments:
            assert len(found[moment]) == len(self.model.known[moment])
            assert set(found[moment]) == self.model.known[moment]

    @invariant()
    def the_views_and_the_ledger_agree_with_the_model(self) -> None:
        model = self.model
        fresh: dict[str, int | None] = dict(self.found("select table_name, row_count from data_freshness"))
        for table, rows in (
            ("sales", sum(map(len, model.sales.values()))),
            ("stores", len(model.stores)),
            ("customer_profiles", len(model.profiles)),
            ("labels", len(model.labels)),
            ("feature_store", len(model.features)),
        ):
            assert (fresh[table] or 0) == rows
        loaded = {
            str(month): (rows, total)
            for month, rows, total in self.found(
                "select sale_month, row_count, total from month_status where row_count is not null"
            )
        }
        assert loaded == {
            month: (len(sales), sum((value for _, value, *_ in sales), Decimal()))
            for month, sales in model.sales.items()
        }
        version = self.found(
            "select file_month, sha256 from pipeline.loads inner join pipeline.files using (file_id)"
            " where table_name = 'sales' and status = 'published'"
        )
        for month, found in version:
            if model.sales[str(month)] == self.sales[str(month)]:
                content = (self.world.folder / f"sales/{month}/sales.csv").read_bytes()
                assert found == hashlib.sha256(content).hexdigest()


def install_faults(admin: psycopg.Connection[Any]) -> None:
    """Make the points at which a session can be terminated."""
    admin.execute(STRIKE)
    for point, (table, operations, condition) in FAULTS.items():
        admin.execute(
            f'create trigger "{point}" before {operations} on {table} for each row when ({condition})'
            f" execute function partitions.strike('{point}')"
        )


class Fault:
    """Terminates the session that reaches a point; true afterwards if one did."""

    def __init__(self, admin: psycopg.Connection[Any], point: str, counts: Counter[str]) -> None:
        self.admin, self.point, self.counts, self.struck = admin, point, counts, False

    def __enter__(self) -> "Fault":
        self.admin.execute("insert into partitions.fault values (%s)", [self.point])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.admin.execute("delete from partitions.fault")
        self.struck = kind is not None and issubclass(kind, psycopg.errors.AdminShutdown)
        self.counts[self.point] += self.struck
        return self.struck

    def __bool__(self) -> bool:
        return self.struck


@pytest.fixture
def world(cluster: Cluster, template: Database, tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "bucket"
    folder.mkdir()
    with misbehaving(folder) as (served, answers, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_BASE_URL", served.url)
        patch.setenv("SOURCE_CA_FILE", str(served.ca_file))
        patch.setenv("AIRFLOW_CONN_OPERATIONAL_DB", "")
        yield World(cluster, template, folder, answers)


def test_every_table_equals_the_model_after_each_random_step(world: World) -> None:
    machine = type("MachineOfThisWorld", (Machine,), {"world": world})
    print(f"RANDOM_SEED={SEED} RANDOM_EXAMPLES={EXAMPLES}")
    run_state_machine_as_test(
        seed(SEED)(machine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,  # the speed of the machine decides nothing
            database=None,  # the seed replays
            print_blob=True,
            phases=[Phase.generate, Phase.shrink],
            # Each step is a load, and each example makes a database.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    print(dict(world.struck))
    assert set(+world.struck) == set(FAULTS), "the search is too short to strike at every point"
