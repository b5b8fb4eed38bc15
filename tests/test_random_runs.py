"""Hundreds of loads, re-loads, corrected files and faults in a random order, each compared with a simple model."""

import hashlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from conftest import Database, Rows
from misbehaviour import Answer, broken_chunks, cut, misbehaving, packed, page, reset, status
from steps import build_feature_store, csv_text, load_customers, load_month, run_on
from test_crashes import end_sessions

from company_data.errors import FileRefused, SourceUnavailable
from local.bucket import Bucket

# Seeded, so that a failure can be repeated: RANDOM_SEED and RANDOM_STEPS make another or a longer search.
SEED = int(os.environ.get("RANDOM_SEED", "20240203"))
STEPS = int(os.environ.get("RANDOM_STEPS", "200"))
MONTHS = ["2023-12-01", "2024-01-01", "2024-02-01"]

Sale = tuple[int, Decimal, date, int]


@dataclass
class Model:
    """What the tables should hold."""

    stores: dict[int, str] = field(default_factory=dict)
    sales: dict[str, list[Sale]] = field(default_factory=dict)
    monthly: dict[str, list[tuple[int, str, Decimal]]] = field(default_factory=dict)
    profiles: Rows = field(default_factory=list)
    activity: Rows = field(default_factory=list)
    labels: Rows = field(default_factory=list)
    features: Rows = field(default_factory=list)


class World:
    """The bucket's files, the database, the model, and the steps that act on all three."""

    def __init__(
        self, database: Database, folder: Path, answers: dict[str, list[Answer]], chance: random.Random
    ) -> None:
        self.database, self.folder, self.answers, self.chance = database, folder, answers, chance
        self.model = Model()
        self.stores: dict[int, str] = {}
        self.sales: dict[str, list[Sale]] = {}
        self.customers: tuple[Rows, Rows, Rows] = ([], [], [])
        self.found: Counter[str] = Counter()
        self.change_stores()
        for month in MONTHS:
            self.correct(month)
        self.change_customers()

    # The files

    def write(self, path: str, header: str, rows: Sequence[Sequence[object]]) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(csv_text(header, rows))
        unfinished.rename(file)

    def write_sales(self, month: str, extra: Sequence[Sequence[object]] = ()) -> None:
        self.write(f"sales/{month}/sales.csv", "idx,value,date,store_idx", [*self.sales[month], *extra])

    def change_stores(self) -> None:
        self.stores = {store: self.chance.choice(["Porto", "Faro", "Braga"]) for store in range(1, 6)}
        self.write("stores.csv", "idx,location", list(self.stores.items()))

    def correct(self, month: str) -> None:
        """Another file for the month, of another length, maybe empty."""
        first = date.fromisoformat(month)
        days = ((first + timedelta(days=32)).replace(day=1) - first).days
        self.sales[month] = [
            (
                number,
                Decimal(self.chance.randint(-999, 99_999)) / 100,
                first + timedelta(days=self.chance.randrange(days)),
                self.chance.randint(1, 5),
            )
            for number in range(self.chance.choice([0, 1, 5, 40]))
        ]
        self.write_sales(month)

    def change_customers(self) -> None:
        """Other customer files: some clients lack a profile, an activity or a label."""
        chance, clients = self.chance, range(30)
        profiles: Rows = [(n, chance.randrange(9), chance.choice("AB"), "x") for n in clients if chance.random() < 0.9]
        labels: Rows = [(n, chance.randrange(2)) for n in clients if chance.random() < 0.9]
        activity: Rows = []
        for client in clients:
            for period in range(chance.randrange(4)):
                start = date(2020, 1, 1) + timedelta(days=100 * period)
                ends = chance.choice([None, start + timedelta(days=99)])
                activity.append((client, start, ends, chance.random(), chance.randrange(9)))
        self.customers = (profiles, activity, labels)
        self.write_customers()

    def write_customers(self, extra_labels: Rows | None = None) -> None:
        profiles, activity, labels = self.customers
        self.write("customer_profiles.csv", "idx,attr_a,attr_b,attr_c", profiles)
        rows = [["" if value is None else value for value in row] for row in activity]
        self.write("customer_activity.csv", "idx,valid_from,valid_to,scd_a,scd_b", rows)
        self.write("labels.csv", "idx,label", [*labels, *(extra_labels or [])])

    # What a load does to the model

    def expect_stores(self) -> None:
        self.model.stores = dict(self.stores)

    def expect_sales(self, month: str) -> None:
        self.model.sales[month] = list(self.sales[month])

    def expect_monthly(self, month: str) -> None:
        sums: dict[int, Decimal] = {}
        for _, value, _, store in self.sales[month]:
            sums[store] = sums.get(store, Decimal()) + value
        self.model.monthly[month] = [(store, self.stores[store], value) for store, value in sorted(sums.items())]

    def expect_month(self, month: str) -> None:
        self.expect_stores()
        self.expect_sales(month)
        self.expect_monthly(month)

    def expect_customers(self) -> None:
        self.model.profiles, self.model.activity, self.model.labels = self.customers

    def expect_features(self) -> None:
        latest: dict[int, tuple[object, ...]] = {}
        # The later of two rows: without an end before with, then by the end, then by the beginning.
        for row in sorted(self.model.activity, key=lambda row: (row[2] is None, row[2] or date.min, row[1])):
            latest[row[0]] = row
        labels: dict[int, int] = dict(self.model.labels)
        self.model.features = [
            (idx, a, b, latest[idx][3], latest[idx][4], labels[idx])
            for idx, a, b, _ in self.model.profiles
            if idx in latest and idx in labels
        ]

    # Steps

    def load(self) -> None:
        month = self.chance.choice(MONTHS)
        if self.chance.random() < 0.5:
            self.correct(month)
        if self.chance.random() < 0.2:
            self.change_stores()
        load_month(self.database, month)
        self.expect_month(month)

    def load_a_bad_file(self) -> None:
        month = self.chance.choice(MONTHS)
        first = date.fromisoformat(month)
        bad: Sequence[object] = self.chance.choice(
            [
                (1, 1, first - timedelta(days=1), 1),
                (1, 1, first, 99),
                (1, "NaN", first, 1),
                (1, "abc", first, 1),
                (1, 1, f"{month[:8]}32", 1),
                (1, 1, first),
                ('"1', 1, first, 1),
            ]
        )
        before = self.sales[month]
        self.correct(month)
        self.write_sales(month, [bad])
        with pytest.raises((FileRefused, psycopg.errors.CheckViolation)):
            load_month(self.database, month)
        self.sales[month] = before
        self.write_sales(month)

    def load_from_a_faulty_source(self) -> None:
        month, chance = self.chance.choice(MONTHS), self.chance
        length = len((self.folder / f"sales/{month}/sales.csv").read_bytes())
        at = chance.randrange(length)
        fault = chance.choice([cut(at), reset(at), broken_chunks(at), status(503), page, packed(cut_at=at % 20 + 1)])
        self.answers[chance.choice(["stores.csv", f"sales/{month}/sales.csv"])] = [fault]
        # A cut may lie behind the end of stores.csv, and then is none.
        try:
            load_month(self.database, month)
            self.expect_month(month)
        except (FileRefused, SourceUnavailable):
            self.found["source fault"] += 1
        self.answers.clear()

    def load_while_connections_drop(self) -> None:
        month = self.chance.choice(MONTHS)
        self.correct(month)
        drop = threading.Timer(
            self.chance.random() * 0.15,
            lambda: self.database.run(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pipeline'"
            ),
        )
        drop.start()
        try:
            load_month(self.database, month)
        except psycopg.OperationalError:
            self.found["dropped connection"] += 1
        drop.join()
        # Each table shows the old month or the new one; which, is not foretold.
        if self.stores_found() == self.stores:
            self.expect_stores()
        if self.sales_found(month) == sorted(self.sales[month]):
            self.expect_sales(month)
            old = self.model.monthly.get(month)
            self.expect_monthly(month)
            if self.monthly_found(month) != self.model.monthly[month]:
                self.model.monthly[month] = old or []
        self.compare()
        load_month(self.database, month)
        self.expect_month(month)

    def load_months_at_once(self) -> None:
        """Runs side by side, the file of one month being corrected in between: that month ends with the newer file."""
        months = [self.chance.choice(MONTHS) for _ in range(4)]
        with ThreadPoolExecutor(5) as pool:
            runs = [pool.submit(load_month, self.database, month) for month in months]
            self.correct(months[0])
            runs.append(pool.submit(load_month, self.database, months[0]))
            for done in runs:
                try:
                    done.result(timeout=60)
                except psycopg.errors.CheckViolation:
                    self.found["overtaken by a run of the same month"] += 1
                except SourceUnavailable:
                    self.found["file changed between its ETag and its content"] += 1
        for month in set(months):
            self.expect_month(month)

    def publish_an_older_load_again(self) -> None:
        """As when a finished task is cleared alone: what is staged no more, or not checked, is not published."""
        [(load, month)] = self.database.run("""
            select load_id, sale_month::text from pipeline.file_loads where table_name = 'sales'
            order by random() limit 1
        """) or [(0, MONTHS[0])]
        with suppress(psycopg.errors.CheckViolation):
            run_on(self.database, "sales/replace_month_of_sales.sql", sale_month=month, sales_load=load)
            # It is what sales holds already, and was left as it is.
            self.found["published again"] += 1

    def load_customers_while_connections_drop(self) -> None:
        self.change_customers()
        drop = threading.Timer(self.chance.random() * 0.12, lambda: end_sessions(self.database))
        drop.start()
        try:
            load_customers(self.database)
            build_feature_store(self.database)
        except psycopg.OperationalError:
            self.found["dropped connection of customers"] += 1
        drop.join()
        load_customers(self.database)
        build_feature_store(self.database)
        self.expect_customers()
        self.expect_features()

    def load_customers(self) -> None:
        if self.chance.random() < 0.7:
            self.change_customers()
        load_customers(self.database)
        self.expect_customers()

    def load_bad_customers(self) -> None:
        before = self.customers
        self.change_customers()
        self.write_customers([(1000, 0), (1000, 1)])
        with pytest.raises(psycopg.errors.CheckViolation, match="two different labels"):
            load_customers(self.database)
        self.customers = before
        self.write_customers()

    def rebuild_features(self) -> None:
        build_feature_store(self.database)
        self.expect_features()

    # Comparison

    def stores_found(self) -> dict[int, str]:
        return dict(self.database.run("select idx, location from stores"))

    def sales_found(self, month: str) -> list[Sale]:
        query = f"select idx, value, date, store_idx from sales where date_trunc('month', date) = '{month}'"
        return sorted(self.database.run(query))

    def monthly_found(self, month: str) -> Rows:
        return self.database.run(
            f"select store_idx, location, value from monthly_sales where sale_month = '{month}' order by 1"
        )

    def compare(self) -> None:
        model, run = self.model, self.database.run
        assert self.stores_found() == model.stores
        for month in MONTHS:
            assert self.sales_found(month) == sorted(model.sales.get(month, []))
            assert self.monthly_found(month) == model.monthly.get(month, [])
        assert run("select count(*) from sales") == [(sum(map(len, model.sales.values())),)]
        assert run("select count(*) from monthly_sales") == [(sum(map(len, model.monthly.values())),)]
        for table, expected in (
            ("customer_profiles", model.profiles),
            ("customer_activity", model.activity),
            ("labels", model.labels),
            ("feature_store", model.features),
        ):
            assert sorted(run(f"select * from {table}"), key=repr) == sorted(expected, key=repr)
        fresh: dict[str, int | None] = dict(run("select table_name, row_count from data_freshness"))
        assert (fresh["sales"] or 0) == sum(map(len, model.sales.values()))
        assert (fresh["labels"] or 0) == len(model.labels)
        assert (fresh["feature_store"] or 0) == len(model.features)
        self.compare_ledger()

    def compare_ledger(self) -> None:
        """The current load of each month is the file that the model last saw, with its total; staging holds no more."""
        current = {
            str(month): (rows, total, text)
            for month, rows, total, text in self.database.run("""
                select sale_month, row_count, total, sha256 from pipeline.current_loads where table_name = 'sales'
            """)
        }
        for month, sales in self.model.sales.items():
            rows, total, text = current[month]
            assert rows == len(sales)
            assert total is None or total == sum(value for _, _, value in self.model.monthly[month])
            if sales == self.sales[month]:
                content = (self.folder / f"sales/{month}/sales.csv").read_bytes()
                assert text == hashlib.sha256(content).hexdigest()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[Bucket, dict[str, list[Answer]]]]:
    with misbehaving(tmp_path) as (served, answers, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_BASE_URL", served.url)
        patch.setenv("REQUESTS_CA_BUNDLE", str(served.ca_file))
        yield served, answers


def test_every_table_equals_the_model_after_each_of_hundreds_of_random_steps(
    database: Database, bucket: tuple[Bucket, dict[str, list[Answer]]], tmp_path: Path
) -> None:
    world = World(database, tmp_path, bucket[1], random.Random(SEED))  # noqa: S311 - no secret
    steps: list[Callable[[], None]] = [
        world.load,
        world.load,
        world.load_a_bad_file,
        world.load_from_a_faulty_source,
        world.load_while_connections_drop,
        world.load_months_at_once,
        world.publish_an_older_load_again,
        world.load_customers,
        world.load_customers_while_connections_drop,
        world.load_bad_customers,
        world.rebuild_features,
    ]
    for number in range(STEPS):
        step = world.chance.choice(steps)
        step()
        world.found[step.__name__] += 1
        try:
            world.compare()
        except AssertionError as error:
            raise AssertionError(f"step {number}, {step.__name__}, of seed {SEED}") from error
    print(f"{STEPS} steps: {dict(world.found)}")
    assert world.found["dropped connection"] > STEPS / 100
