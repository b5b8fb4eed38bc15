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
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from conftest import Database, copied
from psycopg import sql
from support import csv_text, steps, transitions
from support.steps import CUSTOMERS, MAINTENANCE, SALES, Run, connect

from company_data import staging

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("RANDOM_SEED", "20240205"))
EXAMPLES = int(os.environ.get("RANDOM_EXAMPLES", "3"))
ORDERS = int(os.environ.get("RANDOM_ORDERS", "8"))  # of the tasks of two loads of customers, of 252
STEPS = 80
MAX_DOWNLOADS = 6  # at once

JANUARY, FEBRUARY = MONTHS = ("2024-01-01", "2024-02-01")
STAGING_TASKS = ("stage_sales", "stage_stores")

Rows = list[tuple[int, Any]]
Session = psycopg.Connection[Any]


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

    def begin(self, number: int, run: str, month: str | None, requested: int) -> None:
        for load in self.of_file(month):
            is_killed = load.status == "loading" and not load.is_alive
            if load.status in STAGED and load.run == run:
                load.status = "superseded"
            elif is_killed or (load.status == "pending_approval" and load.is_late):
                load.status = "failed"
        self.loads[number] = Load(run, month, requested=requested)
        # The runs that can still publish a load.
        runs = {load.run for load in self.loads.values() if load.status in ("loading", "waiting", *STAGED)}
        for load in self.loads.values():
            # Only a list of stores is needed after it was published, and while its run goes on.
            if (
                load.status == "failed"
                or (load.status == "published" and load.month)
                or (load.status == "superseded" and (load.month or load.run not in runs))
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
    connection: Session


def begin(connection: Session, run: Run, table: str, month: str | None = None) -> int:
    """The first transaction of a staging task."""
    rows = connection.execute(
        "select pipeline.begin_load(%s, %s, 'https://bucket', %s, %s)", [table, month, run.dag.dag_id, run.name]
    )
    return int(rows.fetchall()[0][0])


def copy(connection: Session, load: int, text: str) -> None:
    """The last transaction of a staging task."""
    with connection.transaction():
        [(table,)] = connection.execute("select pipeline.create_staged(%s)", [load]).fetchall()
        rows = staging.copy_file(connection, sql.Identifier(*table.split(".")), iter([text.encode()]), "file.csv")
        connection.execute("select pipeline.stage_load(%s, null, null, 1, %s, %s)", [load, text, rows])


class Walk:
    """A database, its model, and the tasks that change both, drawn at random."""

    def __init__(self, database: Database, chance: random.Random, shared: Session | None = None) -> None:
        """Begin without a load; a shared session is for downloads of which one ends before the next begins."""
        self.database, self.chance, self.shared = database, chance, shared
        self.found: Counter[str] = Counter()  # how often tasks came to what
        self.admin = database.connect()
        transitions.record(self.admin)
        self.connections = [self.admin]
        self.model = Model()
        self.requests = itertools.count(1)
        self.runs: list[Run] = []  # all of whose files were staged once
        self.downloads: list[Download] = []

    def take(self, steps: int) -> None:
        """Take steps, and compare the database with the model after each."""
        self.stage_a_month()
        for number in range(steps):
            actions = [self.stage_a_month, *[self.ask] * 2, self.decide, *[self.go_on] * 4, self.maintain]
            if len(self.downloads) < MAX_DOWNLOADS:
                actions += [*[self.request_a_month] * 2, self.clear]
            if self.downloads:
                actions += [*[self.stage] * 3, self.stop, self.kill]
            action = self.chance.choice(actions)
            print(number, action.__name__)
            action()
            self.compare()

    def end(self) -> None:
        assert transitions.unlisted(transitions.seen(self.admin)) == set()
        for connection in self.connections:
            connection.close()

    def drawn_sales(self) -> Rows:
        """Sales by store; the check rejects unknown stores."""
        return [(self.chance.randint(1, 3), self.chance.randint(0, 8)) for _ in range(self.chance.randrange(4))]

    def drawn_stores(self) -> Rows:
        """Locations of stores, most often of each once; the check rejects two of a store."""
        stores = [(store, self.chance.choice(["Porto", "Faro"])) for store in (1, 2, 3)]
        if self.chance.random() < 0.2:
            return [*self.chance.sample(stores, self.chance.randrange(4)), (self.chance.randint(1, 3), "Porto")]
        # No load may lose the store that another one lacks.
        return [store for store in stores if self.chance.random() < 0.85]

    def drawn_run(self) -> Run:
        """One of the runs, most often one of the last."""
        return self.runs[-1 - min(int(self.chance.expovariate(0.7)), len(self.runs) - 1)]

    def drawn_download(self) -> Download:
        return self.downloads.pop(self.chance.randrange(len(self.downloads)))

    def stage_a_month(self) -> None:
        begun = len(self.downloads)
        self.request_a_month()
        while len(self.downloads) > begun:
            self.stage(self.downloads.pop(begun))

    def request_a_month(self) -> None:
        run = Run(self.database, SALES, self.chance.choice(MONTHS))
        for task in STAGING_TASKS:
            self.request(run, task)

    def clear(self) -> None:
        self.request(self.drawn_run(), self.chance.choice(STAGING_TASKS))

    def request(self, run: Run, task: str) -> None:
        table, *month = run.rendered(run.dag.get_task(task).op_args)
        connection = self.shared or connect(self.database)
        self.connections.append(connection)
        load = begin(connection, run, table, *month)
        connection.execute("select pipeline.request_file(%s)", [load])
        self.model.begin(load, run.name, month[0] if month else None, next(self.requests))
        self.downloads.append(Download(run, task, load, connection))

    def stage(self, download: Download | None = None, rows: Rows | None = None) -> None:
        download = download or self.drawn_download()
        number, load, run = download.load, self.model.loads[download.load], download.run
        if rows is None:
            rows = self.drawn_sales() if load.month else self.drawn_stores()
        text = csv_text.stores(*(f"{store},{location}" for store, location in rows))
        if load.month:
            text = csv_text.sales(*(f"1,{value},{load.month},{store}" for store, value in rows))
        copy(download.connection, number, text)
        self.end_session(download)
        self.model.stage(load, rows)
        self.found[f"{download.task}: {load.status}"] += 1
        run.loads[download.task] = number
        if len(run.loads) == len(STAGING_TASKS) and run not in self.runs:
            self.runs.append(run)

    def stop(self) -> None:
        download, status = self.drawn_download(), self.chance.choice(["waiting", "rejected", "failed"])
        load, until = self.model.loads[download.load], "infinity" if status == "waiting" else None
        parameters = [download.load, status, until]
        download.connection.execute("select pipeline.stop_load(%s, %s, 'a reason', %s)", parameters)
        self.end_session(download)
        load.status, load.is_alive = status, False

    def end_session(self, download: Download) -> None:
        if download.connection is not self.shared:
            download.connection.close()

    def kill(self) -> None:
        download = self.drawn_download()
        pid = download.connection.info.backend_pid
        assert self.admin.execute("select pg_terminate_backend(%s::integer, 60000)", [pid]).fetchall() == [(True,)]
        self.model.loads[download.load].is_alive = False

    def ask(self) -> None:
        """Hold the month until a person decides, as approve_month does after the check."""
        run, is_late = self.drawn_run(), self.chance.random() < 0.2
        self.task(run, "check_month")
        number, load = run.loads["stage_sales"], self.model.loads[run.loads["stage_sales"]]
        until = "-infinity" if is_late else "infinity"
        self.admin.execute("select pipeline.request_approval(%s, %s)", [number, until])
        if load.status in ("checked", "pending_approval"):
            load.status, load.is_late = "pending_approval", is_late

    def decide(self) -> None:
        run, is_approved = self.drawn_run(), self.chance.random() < 0.5
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

    def go_on(self) -> None:
        """Run the check, the publication, or both, of which the second runs if the first was accepted."""
        run, tasks = self.drawn_run(), self.chance.choice(["check", "publish", *["check publish"] * 3]).split()
        all(self.task(run, f"{task}_month") for task in tasks)

    def maintain(self) -> None:
        """The maintenance finds that every row stands that was published."""
        Run(self.database, MAINTENANCE).run("compare_tables")
        assert self.read("select from pipeline.files where difference is not null") == []

    def task(self, run: Run, task: str) -> bool:
        """Run a task where the model says whether it is rejected or skipped; whether it was neither."""
        statuses = {number: load.status for number, load in self.model.loads.items()}
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
            if task == "publish_month":  # one transaction
                for number, status in statuses.items():
                    self.model.loads[number].status = status
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

    def compare(self) -> None:
        """The ledger, the staged tables, the tables and the views equal the model."""
        model, loads = self.model, self.model.loads
        statuses = dict(self.read("select load_id, status from pipeline.loads"))
        assert statuses == {number: load.status for number, load in loads.items()}
        staged = "select relname from pg_class where relnamespace = 'staging'::regnamespace and relname ~ '_[0-9]+$'"
        with_table = {number: load for number, load in loads.items() if load.has_table}
        names = {f"{'sales' if load.month else 'stores'}_{number}" for number, load in with_table.items()}
        assert {name for (name,) in self.read(staged)} == names
        assert dict(self.read("select idx, location from stores")) == model.stores
        sales = [(month, *row) for month, rows in model.sales.items() for row in rows]
        assert Counter(self.read("select date::text, store_idx, value from sales")) == Counter(sales)
        monthly = {(month, store, *row) for month, rows in model.monthly.items() for store, row in rows.items()}
        assert set(self.read("select sale_month::text, store_idx, location, value from monthly_sales")) == monthly
        months = self.read("select file_month::text, row_count, total from month_status where row_count is not null")
        sums = {(month, len(rows), sum(value for _, value in rows)) for month, rows in model.sales.items()}
        assert set(months) == sums
        fresh = dict(self.read("select table_name, coalesce(row_count, 0) from data_freshness"))
        # Rows of lists that were superseded before they were published are nobody's.
        newest = model.published(None)
        assert (fresh["sales"], fresh["stores"]) == (len(sales), len(newest.rows) if newest else 0)


def test_the_ledger_equals_the_model_whatever_the_order_of_the_tasks(template: Database) -> None:
    found: Counter[str] = Counter()
    for example in range(EXAMPLES):
        print(f"RANDOM_SEED={SEED} RANDOM_EXAMPLES={EXAMPLES}: {example}")
        chance = random.Random(f"{SEED} {example}")  # noqa: S311 - no secret
        with copied(template, "test_interleaved") as database:
            walk = Walk(database, chance)
            walk.take(STEPS)
            walk.end()
        found += walk.found
    for what, times in sorted(found.items()):
        print(f"{times:4} {what}")
    for what in ("without rows", "rejected", "/checked: accepted", ": skipped", "pending_approval"):
        assert what in " ".join(found), "the search is too short"


def orders(steps: int) -> Iterator[tuple[str, ...]]:
    """Every order in which the steps of run A and of run B can be mixed, each run's own in their order."""
    for places in itertools.combinations(range(2 * steps), steps):
        yield tuple("A" if place in places else "B" for place in range(2 * steps))


@pytest.fixture
def session(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """One connection for all tasks, which loads/test_poolers.py allows: a new one takes longer than a task."""
    with connect(database) as connection:

        @contextmanager
        def borrowed(_: Database) -> Iterator[Session]:
            try:
                yield connection
            finally:
                connection.rollback()  # a file that fails leaves its transaction

        monkeypatch.setattr(steps, "connect", borrowed)
        yield connection


@pytest.mark.parametrize("same_month", [True, False])
def test_two_runs_lose_no_sales_whatever_the_order_of_their_tasks(
    database: Database, session: Session, same_month: bool
) -> None:
    """A list of stores that lacks a store is requested and published at any point of the run that sells in it.

    Each order has stores of its own: run A sells in two stores and lists both, run B sells in the first and lists it
    alone.
    """
    walk = Walk(database, random.Random(SEED), session)  # noqa: S311 - no secret
    months = {"A": JANUARY, "B": JANUARY if same_month else FEBRUARY}
    for number, order in enumerate(orders(4)):
        print(order)
        sold: dict[str, Rows] = {"A": [(10 * number + 1, 10), (10 * number + 2, 20)], "B": [(10 * number + 1, 5)]}
        runs = {name: Run(database, SALES, month) for name, month in months.items()}
        left = {name: [*STAGING_TASKS, "check_month", "publish_month"] for name in runs}
        for name in order:
            run, task = runs[name], left[name].pop(0)
            if task in STAGING_TASKS:
                walk.request(run, task)
                listed: Rows = [(store, f"{name} {number}") for store, _ in sold[name]]
                walk.stage(walk.downloads.pop(), sold[name] if task == "stage_sales" else listed)
            else:
                walk.task(run, task)
        walk.compare()
    assert not any("rejected" in what for what in walk.found)
    walk.end()


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("profiles_first", [True, False])
def test_of_two_loads_of_customers_one_set_stands_whatever_the_order_of_their_tasks(
    database: Database, profiles_first: bool
) -> None:
    """The run that requested the profiles later is published whole, whichever requested the other files later.

    Also where the profiles come last, and the other run is requested and published when the other two files are staged.
    """
    files = {
        "stage_customer_profiles": lambda version: csv_text.profiles(f"1,{version},A,x", f"2,{version},A,x"),
        "stage_customer_activity": lambda version: csv_text.activity(f"1,2020-01-01,,1,{version}"),
        "stage_labels": lambda version: csv_text.labels(f"{version},0"),
    }
    tasks = [*(files if profiles_first else reversed(files)), "check_customers", "publish_customers"]
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
        versions = {"A": str(2 * number + 1), "B": str(2 * number + 2)}
        runs = {name: Run(database, CUSTOMERS) for name in "AB"}
        left, winner = {name: list(tasks) for name in runs}, ""
        for name in order:
            run, task = runs[name], left[name].pop(0)
            if task in files:
                with steps.connect(database) as connection:
                    run.loads[task] = begin(connection, run, *run.dag.get_task(task).op_args)
                    connection.execute("select pipeline.request_file(%s)", [run.loads[task]])
                    copy(connection, run.loads[task], files[task](versions[name]))
            else:
                run.run(task)
            if task == "stage_customer_profiles":
                winner = name
            before, found = found, database.run(sets)
            assert task == "publish_customers" or found == before
            assert len(set(found[0])) == 1, order
        assert found == [(versions[winner],) * 3], order
