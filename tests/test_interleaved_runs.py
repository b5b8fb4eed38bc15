"""Tasks of several runs in any order: after each step the ledger and every table equal a model of the life of a load.

test_random_runs.py runs one workflow after the other, with faults. Here no task fails by itself: downloads begin in one
order and end in another, sessions die, tasks are cleared alone, and months publish newer stores between the tasks of
others. RANDOM_SEED and RANDOM_EXAMPLES make another or a longer search.
"""

import itertools
import os
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
import pytest
from conftest import Database, drop_database, new_database
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from steps import SALES, Run, connect, csv_text

from company_data import staging
from local.postgres import Cluster

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("RANDOM_SEED", "20240205"))
EXAMPLES = int(os.environ.get("RANDOM_EXAMPLES", "8"))
STEPS = 50
DATABASE = "test_interleaved"
MAX_DOWNLOADS = 6  # at once

MONTHS = ("2024-01-01", "2024-02-01")
HEADERS = {"sales": "idx,value,date,store_idx", "stores": "idx,location"}

Rows = list[tuple[int, Any]]

# Sales by store, and the locations of stores. The check rejects unknown stores, and two locations of a store.
sales_files = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 8)), max_size=3)
stores_files = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["Porto", "Faro"])), max_size=4)
all_stores = st.tuples(*[st.sampled_from(["Porto", "Faro"])] * 3).map(lambda cities: list(enumerate(cities, 1)))


class Rejected(Exception):
    """The model rejects a step."""


@dataclass
class Load:
    """A row of the ledger, and its staged table.

    Attributes:
        run: name of the run.
        month: for sales, the month.
        outcome: as in the ledger.
        is_alive: whether its session is connected.
        requested: place in the order of the requests.
        rows: the file: for sales, store and value; for stores, store and location.
        has_table: whether its staged table exists.
    """

    run: str
    month: str | None
    outcome: str = "loading"
    is_alive: bool = True
    requested: int = 0
    rows: Rows = field(default_factory=list)
    has_table: bool = True


class Model:
    """What the ledger and the tables should hold."""

    def __init__(self) -> None:
        self.loads: dict[int, Load] = {}
        self.stores: dict[int, str] = {}
        self.sales: dict[str, Rows] = {}
        self.monthly: dict[str, dict[int, tuple[str, int]]] = {}

    def of_file(self, month: str | None) -> list[Load]:
        return [load for load in self.loads.values() if load.month == month]

    def published(self, month: str | None) -> Load | None:
        return next((load for load in self.of_file(month) if load.outcome == "published"), None)

    def alive(self) -> int:
        """How many downloads are under way."""
        return sum(load.is_alive for load in self.loads.values())

    def begin(self, number: int, run: str, month: str | None, requested: int) -> None:
        for load in self.of_file(month):
            if load.outcome == "loading" and not load.is_alive:
                load.outcome = "failed"
            elif load.outcome in ("staged", "checked") and load.run == run:
                load.outcome = "superseded"
        for load in self.loads.values():
            if load.outcome in ("waiting", "failed", "published", "superseded") or (
                load.outcome == "rejected" and load.month == month
            ):
                load.has_table = False
        self.loads[number] = Load(run, month, requested=requested)

    def check(self, sales: Load, stores: Load) -> None:
        for load in (sales, stores):
            if not load.has_table and load.outcome != "superseded":
                raise Rejected
        # A month whose stores are superseded is checked with the newest, which are published.
        known = stores.rows if stores.has_table else list(self.stores.items())
        sold = sales.rows if sales.has_table else []
        has_problem = {
            id(sales): any(store not in dict(known) for store, _ in sold),
            id(stores): len(set(known)) > len(dict(known)),
        }
        for load in (sales, stores):
            if load.outcome != "superseded":
                load.outcome = "rejected" if has_problem[id(load)] else "checked"
        if "rejected" in (sales.outcome, stores.outcome):
            raise Rejected

    def publish(self, month: str, sales: Load, stores: Load) -> None:
        was_published = sales.outcome == "published"
        self.publish_load(sales)
        self.publish_load(stores)
        stores.has_table = False
        newest_stores, newest_sales = self.published(None), self.published(month)
        self.stores = dict(newest_stores.rows) if newest_stores else {}
        sums: Counter[int] = Counter()
        for store, value in newest_sales.rows if newest_sales else []:
            sums[store] += value
        if not sums.keys() <= self.stores.keys():
            raise Rejected
        self.monthly[month] = {store: (self.stores[store], value) for store, value in sums.items()}
        if sales.outcome == "published" and not was_published:
            self.sales[month] = sales.rows
            sales.has_table = False

    def publish_load(self, load: Load) -> None:
        if load.outcome in ("published", "superseded"):
            return
        if load.outcome != "checked":
            raise Rejected
        previous = self.published(load.month)
        if previous and previous.requested > load.requested:
            load.outcome = "superseded"
            load.has_table = False
            return
        for other in self.of_file(load.month):
            if other.outcome in ("staged", "checked", "published") and other.requested < load.requested:
                other.outcome = "superseded"
                other.has_table = False
        load.outcome = "published"

    def month_status(self) -> dict[str, tuple[str, int | None]]:
        """State, and the rows that are loaded, of each month that was attempted."""
        found: dict[str, tuple[str, int | None]] = {}
        for number, load in sorted(self.loads.items()):
            if load.month is None:
                continue
            later = [
                other for key, other in self.loads.items() if other.run == load.run and key > number and not other.month
            ]
            attempts = [load, *later[-1:]]
            outcomes = [attempt.outcome for attempt in attempts]
            if "rejected" in outcomes or "failed" in outcomes:
                state = "rejected" if "rejected" in outcomes else "failed"
            elif load.outcome == "waiting":
                state = "waiting"
            elif load.outcome in ("published", "superseded"):
                state = "loaded"
            else:
                is_dead = any(each.outcome == "loading" and not each.is_alive for each in attempts)
                state = "failed" if is_dead else "loading"
            newest = self.published(load.month)
            found[load.month] = (state, len(newest.rows) if newest else None)
        return found


@dataclass
class Download:
    """A file that was requested and is not staged yet."""

    run: Run
    task: str
    load: staging.Load
    connection: psycopg.Connection[Any]


@dataclass
class World:
    """Where the machines run, one after the other, and how often their steps came to what."""

    cluster: Cluster
    template: Database
    found: Counter[str] = field(default_factory=Counter)


class Machine(RuleBasedStateMachine):
    """A database, its model, and the tasks that change both."""

    world: World
    runs = Bundle("runs")
    downloads = Bundle("downloads")

    def __init__(self) -> None:
        super().__init__()
        world = self.world
        world.cluster.drop_database(DATABASE)  # of an example that could not begin
        self.database = new_database(world.cluster, DATABASE, world.template.name)
        self.admin = self.database.connect()
        self.connections: list[psycopg.Connection[Any]] = []
        self.model = Model()
        self.requests = itertools.count(1)

    def teardown(self) -> None:
        for connection in (self.admin, *self.connections):
            connection.close()
        drop_database(self.database)

    @initialize(target=runs, month=st.sampled_from(MONTHS), sales=sales_files, stores=all_stores)
    def stage_the_first_month(self, month: str, sales: Rows, stores: Rows) -> Any:
        return self.stage_a_month(month, sales, stores)

    @rule(target=runs, month=st.sampled_from(MONTHS), sales=sales_files, stores=all_stores)
    def stage_a_month(self, month: str, sales: Rows, stores: Rows) -> Run:
        run = Run(self.database, SALES, month)
        for task in ("stage_sales", "stage_stores"):
            self.stage(self.request(run, task), sales, stores)
        return run

    @precondition(lambda self: self.model.alive() < MAX_DOWNLOADS)
    @rule(target=downloads, month=st.sampled_from(MONTHS))
    def request_a_month(self, month: str) -> Any:
        run = Run(self.database, SALES, month)
        return multiple(*[self.request(run, task) for task in ("stage_sales", "stage_stores")])

    @precondition(lambda self: self.model.alive() < MAX_DOWNLOADS)
    @rule(target=downloads, run=runs, task=st.sampled_from(["stage_sales", "stage_stores"]))
    def request(self, run: Run, task: str) -> Download:
        path, table, *month = run.rendered(run.dag.get_task(task).op_args)
        connection = connect(self.database)
        self.connections.append(connection)
        load = staging.begin_load(connection, table, month[0] if month else None, path, run.name)
        connection.execute("select pipeline.request_file(%s)", [load.number])
        self.model.begin(load.number, run.name, month[0] if month else None, next(self.requests))
        return Download(run, task, load, connection)

    @rule(target=runs, download=consumes(downloads), sales=sales_files, stores=all_stores | stores_files)
    def stage(self, download: Download, sales: Rows, stores: Rows) -> Any:
        number, load = download.load.number, self.model.loads[download.load.number]
        if download.task == "stage_sales":
            load.rows = sales
            text = csv_text(HEADERS["sales"], [(1, value, load.month, store) for store, value in sales])
        else:
            load.rows = stores
            text = csv_text(HEADERS["stores"], stores)
        with download.connection as connection, connection.transaction():
            rows = staging.copy_file(connection, download.load.table, iter([text.encode()]), "file.csv")
            connection.execute("select pipeline.stage_load(%s, null, null, 1, 'x', %s)", [number, rows])
        load.outcome, load.is_alive = "staged", False
        download.run.loads[download.task] = number
        return download.run if len(download.run.loads) == len(HEADERS) else multiple()

    @rule(download=consumes(downloads), outcome=st.sampled_from(["waiting", "rejected", "failed"]))
    def stop(self, download: Download, outcome: str) -> None:
        number, load = download.load.number, self.model.loads[download.load.number]
        until = "infinity" if outcome == "waiting" else None
        with download.connection as connection:
            connection.execute("select pipeline.stop_load(%s, %s, 'a reason', %s)", [number, outcome, until])
        load.outcome, load.is_alive, load.has_table = outcome, False, False

    @rule(download=consumes(downloads))
    def kill(self, download: Download) -> None:
        pid = download.connection.info.backend_pid
        assert self.admin.execute("select pg_terminate_backend(%s::integer, 60000)", [pid]).fetchall() == [(True,)]
        self.model.loads[download.load.number].is_alive = False

    @rule(run=runs)
    def check(self, run: Run) -> None:
        self.step(run, "check_month")

    @rule(run=runs)
    def publish(self, run: Run) -> None:
        self.step(run, "publish_month")

    @rule(run=runs)
    def check_and_publish(self, run: Run) -> None:
        if self.step(run, "check_month"):
            self.step(run, "publish_month")

    def step(self, run: Run, task: str) -> bool:
        """Run a task where the model says whether it is rejected; whether it was not."""
        before = deepcopy(self.model)
        loads = [self.model.loads[run.loads[name]] for name in ("stage_sales", "stage_stores")]
        was = "/".join(load.outcome + ("" if load.has_table else " without rows") for load in loads)
        accepted = True
        try:
            if task == "check_month":
                self.model.check(*loads)
            else:
                self.model.publish(str(run.month), *loads)
        except Rejected:
            accepted = False
            if task == "publish_month":
                self.model = before  # one transaction
        self.world.found[f"{task} of {was}: {'accepted' if accepted else 'rejected'}"] += 1
        if accepted:
            run.run(task)
        else:
            with pytest.raises(psycopg.errors.CheckViolation):
                run.run(task)
        return accepted

    def read(self, query: str) -> list[tuple[Any, ...]]:
        return self.admin.execute(query).fetchall()

    @invariant()
    def the_ledger_equals_the_model(self) -> None:
        loads = self.model.loads
        assert dict(self.read("select load_id, outcome from pipeline.loads")) == {
            number: load.outcome for number, load in loads.items()
        }
        assert {
            name for (name,) in self.read("select relname from pg_class where relnamespace = 'staging'::regnamespace")
        } == {
            "clients",
            "feature_history",
            *(f"{'sales' if load.month else 'stores'}_{number}" for number, load in loads.items() if load.has_table),
        }

    @invariant()
    def every_table_equals_the_model(self) -> None:
        model = self.model
        assert dict(self.read("select idx, location from stores")) == model.stores
        assert Counter(self.read("select date, store_idx, value from sales")) == Counter(
            (date.fromisoformat(month), *row) for month, rows in model.sales.items() for row in rows
        )
        assert set(self.read("select sale_month, store_idx, location, value from monthly_sales")) == {
            (date.fromisoformat(month), store, *row)
            for month, rows in model.monthly.items()
            for store, row in rows.items()
        }

    @invariant()
    def the_status_equals_the_model(self) -> None:
        status = self.read("select sale_month::text, state, row_count from month_status")
        assert {month: (state, rows) for month, state, rows in status} == self.model.month_status()


def test_the_ledger_equals_the_model_whatever_the_order_of_the_tasks(cluster: Cluster, template: Database) -> None:
    world = World(cluster, template)
    print(f"RANDOM_SEED={SEED} RANDOM_EXAMPLES={EXAMPLES}")
    run_state_machine_as_test(
        seed(SEED)(type("MachineOfThisWorld", (Machine,), {"world": world})),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,  # the speed of the machine decides nothing
            database=None,  # the seed replays
            print_blob=True,
            # Each example makes a database, and each step is a task.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    for what, times in sorted(world.found.items()):
        print(f"{times:4} {what}")
    outcomes = " ".join(world.found)
    for what in ("superseded without rows", "rejected", "checked", "published"):
        assert what in outcomes, "the search is too short"
