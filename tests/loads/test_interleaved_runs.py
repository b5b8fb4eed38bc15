"""Tasks of several runs in any order: after each step the ledger and every table equal a model of the life of a load.

Downloads begin in one order and end in another, sessions die, tasks are cleared alone, and months publish newer stores
between the tasks of others. RANDOM_SEED and RANDOM_EXAMPLES make another or a longer search. Two runs are tried in
every order of their tasks.
"""

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
import pytest
from conftest import Database, drop_database, new_database
from hypothesis import HealthCheck, seed, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import consumes, initialize, invariant, multiple, precondition, rule
from psycopg import sql
from support import csv_text, steps, transitions
from support.steps import CUSTOMERS, MAINTENANCE, SALES, Run, connect

from company_data import staging
from embedded.postgres import Cluster

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("RANDOM_SEED", "20240205"))
EXAMPLES = int(os.environ.get("RANDOM_EXAMPLES", "5"))
ORDERS = int(os.environ.get("RANDOM_ORDERS", "12"))  # of the tasks of two loads of customers, of 252
STEPS = 50
DATABASE = "test_interleaved"
MAX_DOWNLOADS = 6  # at once

JANUARY, FEBRUARY = MONTHS = ("2024-01-01", "2024-02-01")
STAGING_TASKS = ("stage_sales", "stage_stores")

Rows = list[tuple[int, Any]]

# Sales by store, and the locations of stores. The check rejects unknown stores, and two locations of a store.
sales_files = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 8)), max_size=3)
stores_files = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["Porto", "Faro"])), max_size=4)
all_stores = st.tuples(*[st.sampled_from(["Porto", "Faro"])] * 3).map(lambda cities: list(enumerate(cities, 1)))
# Most often all stores, or all but one, which no other load may lose.
lists = all_stores | st.tuples(all_stores, st.integers(0, 2)).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[0][drawn[1] + 1 :]
)


class Rejected(Exception):
    """The model rejects a step."""


class Skipped(Exception):
    """A later load is published, or the load itself is: the model expects that a step changes nothing."""


@dataclass
class Load:
    """A row of the ledger, and its staged table."""

    run: str
    month: str | None  # of sales
    status: str = "loading"
    is_alive: bool = True  # its session is connected
    requested: int = 0  # place in the order of the requests
    rows: Rows = field(default_factory=list)  # store and value, or store and location
    has_table: bool = False
    is_decided: bool = False  # a person has rejected it
    has_error: bool = False  # which also a superseded list of stores keeps
    is_late: bool = False  # the time to decide is over


# The statuses of a load that its run may still publish.
STAGED = ("staged", "checked", "pending_approval")


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
        return next((load for load in self.of_file(month) if load.status == "published"), None)

    def alive(self) -> int:
        """How many downloads are under way."""
        return sum(load.is_alive for load in self.loads.values())

    def is_needed(self, load: Load) -> bool:
        """Whether a load of the same run can still be published."""
        return any(
            other.run == load.run and other.status in ("loading", "waiting", *STAGED) for other in self.loads.values()
        )

    def begin(self, number: int, run: str, month: str | None, requested: int) -> None:
        for load in self.of_file(month):
            if load.status in STAGED and load.run == run:
                load.status = "superseded"
            elif (load.status == "loading" and not load.is_alive) or (
                load.status == "pending_approval" and load.is_late
            ):
                load.status = "failed"
        self.loads[number] = Load(run, month, requested=requested)
        self.drop_staged()

    def drop_staged(self) -> None:
        """Drop the staged tables that nobody needs."""
        for load in self.loads.values():
            # Only a list of stores is needed after it was published, and while its run goes on.
            if (
                load.status == "failed"
                or (load.status == "published" and load.month)
                or (load.status == "superseded" and (load.month or not self.is_needed(load)))
                or (load.status == "rejected" and load is not self.of_file(load.month)[-1])
            ):
                load.has_table = False

    def stage(self, load: Load, rows: Rows) -> None:
        published = self.published(load.month)
        load.rows, load.is_alive, load.has_table = rows, False, True
        load.status = "superseded" if published and published.requested > load.requested else "staged"

    def open_staged(self, sales: Load, stores: Load) -> None:
        """Without its rows a run must start again, unless its month is superseded."""
        for load in (sales, stores):
            if load.is_decided:
                raise Rejected
            if load.status == "superseded" and load.month:
                raise Skipped
            if not load.has_table:
                raise Rejected

    def check(self, sales: Load, stores: Load) -> None:
        self.open_staged(sales, stores)
        known = {store for store, _ in stores.rows} | self.stores.keys()
        is_wrong = {
            id(sales): any(store not in known for store, _ in sales.rows),
            id(stores): not stores.rows or len(set(stores.rows)) > len(dict(stores.rows)),
        }
        for load in (sales, stores):
            load.has_error = is_wrong[id(load)]
            if load.status in (*STAGED, "rejected"):
                published = self.published(load.month)
                is_overtaken = published and published.requested > load.requested
                load.status = "rejected" if load.has_error else "superseded" if is_overtaken else "checked"
        if sales.has_error or stores.has_error:
            raise Rejected

    def publish(self, month: str, sales: Load, stores: Load) -> None:
        published = self.published(month)
        if sales.status in ("published", "superseded"):
            raise Skipped
        if sales.status == "checked" and published and published.requested > sales.requested:
            raise Skipped
        self.publish_load(sales)
        newest = self.published(None)
        is_newest = False
        is_late = stores.status == "checked" and newest is not None and newest.requested > stores.requested
        if stores.has_error or (stores.status not in ("published", "superseded") and not is_late):
            self.publish_load(stores)
            is_newest = True
        self.open_staged(sales, stores)
        for store, location in stores.rows:
            if is_newest or store not in self.stores:
                self.stores[store] = location
        sums: Counter[int] = Counter()
        for store, value in sales.rows:
            sums[store] += value
        self.monthly[month] = {store: (self.stores[store], value) for store, value in sums.items()}
        self.sales[month] = sales.rows
        sales.has_table = False

    def publish_load(self, load: Load) -> None:
        if load.status != "checked":
            raise Rejected
        for other in self.of_file(load.month):
            if other.status in (*STAGED, "published") and other.requested < load.requested:
                other.status = "superseded"
        load.status = "published"


@dataclass
class Download:
    """A file that was requested and is not staged yet."""

    run: Run
    task: str
    load: int
    connection: psycopg.Connection[Any]


def begin(connection: psycopg.Connection[Any], run: Run, table: str, month: str | None = None) -> int:
    """The first transaction of a staging task."""
    rows = connection.execute(
        "select pipeline.begin_load(%s, %s, 'https://bucket', %s, %s)", [table, month, run.dag.dag_id, run.name]
    )
    return int(rows.fetchall()[0][0])


def copy(connection: psycopg.Connection[Any], load: int, text: str) -> None:
    """The last transaction of a staging task."""
    with connection.transaction():
        [(table,)] = connection.execute("select pipeline.create_staged(%s)", [load]).fetchall()
        rows = staging.copy_file(connection, sql.Identifier(*table.split(".")), iter([text.encode()]), "file.csv")
        connection.execute("select pipeline.stage_load(%s, null, null, 1, %s, %s)", [load, text, rows])


class Machine(stateful.RuleBasedStateMachine):
    """A database, its model, and the tasks that change both."""

    cluster: Cluster
    template: Database
    found: Counter[str]  # how often steps came to what
    runs = stateful.Bundle("runs")
    downloads = stateful.Bundle("downloads")

    def __init__(self) -> None:
        super().__init__()
        self.cluster.drop_database(DATABASE)  # of an example that could not begin
        self.database = new_database(self.cluster, DATABASE, self.template.name)
        self.admin = self.database.connect()
        transitions.record(self.admin)
        self.connections: list[psycopg.Connection[Any]] = []
        self.model = Model()
        self.requests = itertools.count(1)

    def teardown(self) -> None:
        assert transitions.unlisted(transitions.seen(self.admin)) == set()
        for connection in (self.admin, *self.connections):
            connection.close()
        drop_database(self.database)

    @initialize(target=runs, month=st.sampled_from(MONTHS), sales=sales_files, stores=lists)
    def stage_the_first_month(self, month: str, sales: Rows, stores: Rows) -> Any:
        return self.stage_a_month(month, sales, stores)

    @rule(target=runs, month=st.sampled_from(MONTHS), sales=sales_files, stores=lists)
    def stage_a_month(self, month: str, sales: Rows, stores: Rows) -> Run:
        run = Run(self.database, SALES, month)
        for task in STAGING_TASKS:
            self.stage(self.request(run, task), sales, stores)
        return run

    @precondition(lambda self: self.model.alive() < MAX_DOWNLOADS)
    @rule(target=downloads, month=st.sampled_from(MONTHS))
    def request_a_month(self, month: str) -> Any:
        run = Run(self.database, SALES, month)
        return multiple(*[self.request(run, task) for task in STAGING_TASKS])

    @precondition(lambda self: self.model.alive() < MAX_DOWNLOADS)
    @rule(target=downloads, run=runs, task=st.sampled_from(STAGING_TASKS))
    def request(self, run: Run, task: str) -> Download:
        table, *month = run.rendered(run.dag.get_task(task).op_args)
        connection = connect(self.database)
        self.connections.append(connection)
        load = begin(connection, run, table, *month)
        connection.execute("select pipeline.request_file(%s)", [load])
        self.model.begin(load, run.name, month[0] if month else None, next(self.requests))
        return Download(run, task, load, connection)

    @rule(target=runs, download=consumes(downloads), sales=sales_files, stores=lists | stores_files)
    def stage(self, download: Download, sales: Rows, stores: Rows) -> Any:
        number, load = download.load, self.model.loads[download.load]
        with download.connection as connection:
            if load.month:
                text = csv_text.sales(*(f"1,{value},{load.month},{store}" for store, value in sales))
            else:
                text = csv_text.stores(*(f"{store},{location}" for store, location in stores))
            copy(connection, number, text)
        self.model.stage(load, sales if load.month else stores)
        download.run.loads[download.task] = number
        return download.run if len(download.run.loads) == len(STAGING_TASKS) else multiple()

    @rule(download=consumes(downloads), status=st.sampled_from(["waiting", "rejected", "failed"]))
    def stop(self, download: Download, status: str) -> None:
        number, load = download.load, self.model.loads[download.load]
        until = "infinity" if status == "waiting" else None
        with download.connection as connection:
            connection.execute("select pipeline.stop_load(%s, %s, 'a reason', %s)", [number, status, until])
        load.status, load.is_alive = status, False

    @rule(download=consumes(downloads))
    def kill(self, download: Download) -> None:
        pid = download.connection.info.backend_pid
        assert self.admin.execute("select pg_terminate_backend(%s::integer, 60000)", [pid]).fetchall() == [(True,)]
        self.model.loads[download.load].is_alive = False

    @rule(run=runs, is_late=st.booleans())
    def ask(self, run: Run, is_late: bool) -> None:
        """Hold the month until a person decides, as approve_month does after the check."""
        self.step(run, "check_month")
        number, load = run.loads["stage_sales"], self.model.loads[run.loads["stage_sales"]]
        until = "-infinity" if is_late else "infinity"
        self.admin.execute("select pipeline.request_approval(%s, %s)", [number, until])
        if load.status in ("checked", "pending_approval"):
            load.status, load.is_late = "pending_approval", is_late

    @rule(run=runs, is_approved=st.booleans())
    def decide(self, run: Run, is_approved: bool) -> None:
        number, load = run.loads["stage_sales"], self.model.loads[run.loads["stage_sales"]]
        status = self.admin.execute("select pipeline.decide_load(%s, %s, 'a person')", [number, is_approved]).fetchall()
        if load.status == "pending_approval":
            load.status = "failed" if load.is_late else "checked" if is_approved else "rejected"
            load.is_decided = load.status == "rejected"
            assert status == [(load.status,)]
        else:
            # A setting may publish a checked load, and an answer about a superseded one is recorded.
            is_kept = load.status == "superseded" or (load.status == "checked" and is_approved)
            assert status == [(load.status if is_kept else None,)]

    @rule(run=runs, tasks=st.sampled_from([["check_month"], ["publish_month"], ["check_month", "publish_month"]]))
    def go_on(self, run: Run, tasks: list[str]) -> None:
        all(self.step(run, task) for task in tasks)

    @rule()
    def compare_the_tables_with_the_ledger(self) -> None:
        """The maintenance finds that every row stands that was published."""
        Run(self.database, MAINTENANCE).run("compare_tables")
        assert self.read("select from pipeline.files where difference is not null") == []

    def step(self, run: Run, task: str) -> bool:
        """Run a task where the model says whether it is rejected or skipped; whether it was neither."""
        before = deepcopy(self.model)
        loads = [self.model.loads[run.loads[name]] for name in STAGING_TASKS]
        was = "/".join(load.status + ("" if load.has_table else " without rows") for load in loads)
        expected = "accepted"
        try:
            if task == "check_month":
                self.model.check(*loads)
            else:
                self.model.publish(str(run.month), *loads)
        except (Rejected, Skipped) as error:
            expected = type(error).__name__.lower()
            if task == "publish_month":
                self.model = before  # one transaction
        self.found[f"{task} of {was}: {expected}"] += 1
        if expected == "rejected":
            with pytest.raises(psycopg.errors.CheckViolation):
                run.run(task)
        else:
            reports = run.run(task)
            # A publication reports what it has done, and a task that is skipped nothing.
            assert bool(reports) == (expected == "accepted" and task == "publish_month")
        return expected == "accepted"

    def read(self, query: str) -> list[tuple[Any, ...]]:
        return self.admin.execute(query).fetchall()

    @invariant()
    def the_ledger_equals_the_model(self) -> None:
        loads = self.model.loads
        assert dict(self.read("select load_id, status from pipeline.loads")) == {
            number: load.status for number, load in loads.items()
        }
        staged = "select relname from pg_class where relnamespace = 'staging'::regnamespace and relname ~ '_[0-9]+$'"
        assert {name for (name,) in self.read(staged)} == {
            f"{'sales' if load.month else 'stores'}_{number}" for number, load in loads.items() if load.has_table
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
    def the_views_equal_the_model(self) -> None:
        model = self.model
        months = self.read("select file_month::text, row_count, total from month_status where row_count is not null")
        assert {month: tuple(figures) for month, *figures in months} == {
            month: (len(rows), sum(value for _, value in rows)) for month, rows in model.sales.items()
        }
        rows = dict(self.read("select table_name, coalesce(row_count, 0) from data_freshness"))
        assert rows["sales"] == sum(map(len, model.sales.values()))
        # Rows of lists that were superseded before they were published are nobody's.
        newest = model.published(None)
        assert rows["stores"] == (len(newest.rows) if newest else 0)


def test_the_ledger_equals_the_model_whatever_the_order_of_the_tasks(cluster: Cluster, template: Database) -> None:
    found: Counter[str] = Counter()
    machine = type("MachineOfThisCluster", (Machine,), {"cluster": cluster, "template": template, "found": found})
    print(f"RANDOM_SEED={SEED} RANDOM_EXAMPLES={EXAMPLES}")
    stateful.run_state_machine_as_test(
        seed(SEED)(machine),
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
    for what, times in sorted(found.items()):
        print(f"{times:4} {what}")
    statuses = " ".join(found)
    for what in (
        "superseded without rows",
        "rejected",
        "publish_month of checked/checked: accepted",
        ": skipped",
        "published",
        "pending_approval",
    ):
        assert what in statuses, "the search is too short"


def orders(steps: int) -> Iterator[tuple[str, ...]]:
    """Every order in which the steps of run A and of run B can be mixed, each run's own in their order."""
    for places in itertools.combinations(range(2 * steps), steps):
        yield tuple("A" if place in places else "B" for place in range(2 * steps))


def test_orders_are_all_there_are() -> None:
    assert ["".join(order) for order in orders(2)] == ["AABB", "ABAB", "ABBA", "BAAB", "BABA", "BBAA"]


@pytest.fixture
def one_session(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tasks use one connection, which loads/test_poolers.py allows: a new one takes longer than a task."""
    with connect(database) as connection:

        @contextmanager
        def borrowed(_: Database) -> Iterator[psycopg.Connection[Any]]:
            try:
                yield connection
            finally:
                connection.rollback()  # a file that fails leaves its transaction

        monkeypatch.setattr(steps, "connect", borrowed)
        yield


def stage_text(run: Run, task: str, text: str) -> None:
    """Run a staging task without a download."""
    table, *month = run.rendered(run.dag.get_task(task).op_args)
    with steps.connect(run.database) as connection:
        load = begin(connection, run, table, *month)
        connection.execute("select pipeline.request_file(%s)", [load])
        copy(connection, load, text)
    run.loads[task] = load


@pytest.mark.usefixtures("one_session")
@pytest.mark.parametrize("same_month", [True, False])
def test_two_runs_lose_no_sales_whatever_the_order_of_their_tasks(database: Database, same_month: bool) -> None:
    """A list of stores that lacks a store is requested and published at any point of the run that sells in it.

    Each order has stores of its own: run A sells in two stores and lists both, run B sells in the first and lists it
    alone.
    """
    tasks = (*STAGING_TASKS, "check_month", "publish_month")
    months = {"A": JANUARY, "B": JANUARY if same_month else FEBRUARY}
    expected_stores: dict[int, str] = {}
    for number, order in enumerate(orders(len(tasks))):
        shown = "".join(order)
        first, second = 10 * number + 1, 10 * number + 2
        sold = {"A": {first: 10, second: 20}, "B": {first: 5}}
        listed = {name: dict.fromkeys(stores, f"{name} {number}") for name, stores in sold.items()}
        runs = {name: Run(database, SALES, month) for name, month in months.items()}
        left = {name: list(tasks) for name in runs}
        places: dict[tuple[str, str], int] = {}
        for place, name in enumerate(order):
            task = left[name].pop(0)
            places[name, task] = place
            if task == "stage_sales":
                rows = (f"1,{value},{months[name]},{store}" for store, value in sold[name].items())
                stage_text(runs[name], task, csv_text.sales(*rows))
            elif task == "stage_stores":
                stage_text(runs[name], task, csv_text.stores(*(f"{n},{place}" for n, place in listed[name].items())))
            else:
                runs[name].run(task)

        winner = max("AB", key=lambda name: places[name, "stage_sales"])
        # In one month, a run that requested earlier is published only if it comes first.
        is_published = {
            name: not same_month or name == winner or places[name, tasks[-1]] < places[winner, tasks[-1]]
            for name in "AB"
        }
        # Who requested its list last has the say on the locations, also if it published first.
        published = sorted((name for name in "AB" if is_published[name]), key=lambda name: places[name, "stage_stores"])
        expected: list[tuple[Any, ...]] = []
        for name in published:
            expected_stores |= listed[name]
        for name in [winner] if same_month else published:
            known: dict[int, str] = {}
            for other in published:
                if places[other, tasks[-1]] <= places[name, tasks[-1]]:
                    known |= listed[other]
            expected += [(months[name], store, known[store], value) for store, value in sold[name].items()]
        monthly = "select sale_month::text, store_idx, location, value from monthly_sales order by 1, 2"
        assert database.run(monthly) == sorted(expected), shown
        sums = "select date::text, store_idx, sum(value) from sales group by 1, 2 order by 1, 2"
        assert database.run(sums) == [(month, store, value) for month, store, _, value in sorted(expected)], shown
        assert dict(database.run("select idx, location from stores")) == expected_stores, shown


@pytest.mark.usefixtures("one_session")
@pytest.mark.parametrize("profiles_first", [True, False])
def test_of_two_loads_of_customers_one_set_stands_whatever_the_order_of_their_tasks(
    database: Database, profiles_first: bool
) -> None:
    """The run that requested the profiles later is published whole, whichever requested the other files later.

    Also where the profiles come last, and the other run is requested and published when the other two files are staged.
    """
    texts = {
        "stage_customer_profiles": lambda version: csv_text.profiles(f"1,{version},A,x", f"2,{version},A,x"),
        "stage_customer_activity": lambda version: csv_text.activity(f"1,2020-01-01,,1,{version}"),
        "stage_labels": lambda version: csv_text.labels(f"{version},0"),
    }
    tasks = [*(texts if profiles_first else reversed(texts)), "check_customers", "publish_customers"]
    sets = """
        select
            (select string_agg(distinct attr_a::text, ',') from customer_profiles),
            (select string_agg(distinct scd_b::text, ',') from customer_activity),
            (select string_agg(idx::text, ',') from labels)
    """
    found = database.run(sets)
    tried = random.Random(SEED).sample(list(orders(len(tasks))), ORDERS)  # noqa: S311 - no secret
    print(f"RANDOM_SEED={SEED} RANDOM_ORDERS={ORDERS}")
    for number, order in enumerate(tried):
        runs = {name: Run(database, CUSTOMERS) for name in "AB"}
        versions = {name: str(2 * number + place) for place, name in enumerate("AB", 1)}
        left = {name: list(tasks) for name in runs}
        winner = ""
        for name in order:
            task = left[name].pop(0)
            if task == "stage_customer_profiles":
                winner = name
            if task in texts:
                stage_text(runs[name], task, texts[task](versions[name]))
            else:
                runs[name].run(task)
            before, found = found, database.run(sets)
            assert task == "publish_customers" or found == before
            assert len(set(found[0])) == 1, "".join(order)
        assert found == [(versions[winner],) * 3], "".join(order)
