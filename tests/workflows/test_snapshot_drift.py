"""Drift between versions of the customer files is found, each with the reason that names it, and growth is not.

A company of some hundred clients whose files come once a month: clients come and a few go, activity goes on, attributes
and labels change a little. RANDOM_SEED and RANDOM_SEEDS make another or a longer search.
"""

import os
import random
from dataclasses import dataclass, replace
from datetime import date, timedelta

import pytest
from conftest import Database, Files
from support import csv_text
from support.bucket_files import write_customers
from support.steps import CUSTOMERS, Run

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("RANDOM_SEED", "20240206"))
SEEDS = int(os.environ.get("RANDOM_SEEDS", "1"))
CLIENTS, VERSIONS = 600, 4
FIRST_DAY = date(2020, 1, 1)

Activity = tuple[int, date, date | None, float, int]


@dataclass(frozen=True)
class Version:
    """The rows of the three files of a month."""

    today: date
    profiles: dict[int, tuple[int, str, str]]
    activity: list[Activity]
    labels: dict[int, int]


def client(chance: random.Random) -> tuple[int, str, str]:
    return int(chance.gauss(50, 12)), chance.choice("AAABBC"), chance.choice(["x", "yy", "zzz", ""])


def first_version(chance: random.Random) -> Version:
    today = FIRST_DAY + timedelta(days=1500)
    clients = range(1, CLIENTS + 1)
    activity: list[Activity] = []
    for idx in clients:
        days = sorted(FIRST_DAY + timedelta(days=day) for day in chance.sample(range(1500), chance.randint(1, 8)))
        for begun, ended in zip(days, [*days[1:], None], strict=True):
            activity.append((idx, begun, ended, chance.lognormvariate(1, 0.5), chance.randint(0, 40)))
    return Version(
        today,
        {idx: client(chance) for idx in clients},
        activity,
        {idx: int(chance.random() < 0.3) for idx in clients},
    )


def next_version(chance: random.Random, before: Version) -> Version:
    """A clean version of the month after."""
    today = before.today + timedelta(days=30)
    kept = {idx for idx in before.profiles if chance.random() > 0.004}
    new = range(max(before.profiles) + 1, max(before.profiles) + 1 + chance.randint(5, 20))
    activity: list[Activity] = []
    for idx, begun, ended, scd_a, scd_b in before.activity:
        if idx in kept and ended is None and chance.random() < 0.1:
            changed = today - timedelta(days=chance.randrange(30))
            activity += [
                (idx, begun, changed, scd_a, scd_b),
                (idx, changed, None, scd_a * chance.uniform(0.8, 1.25), chance.randint(0, 40)),
            ]
        elif idx in kept:
            activity.append((idx, begun, ended, scd_a, scd_b))
    activity += [(idx, today, None, chance.lognormvariate(1, 0.5), chance.randint(0, 40)) for idx in new]
    labels = {idx: label ^ (chance.random() < 0.01) for idx, label in before.labels.items() if idx in kept}
    return Version(
        today,
        {idx: row for idx, row in before.profiles.items() if idx in kept} | {idx: client(chance) for idx in new},
        activity,
        labels | {idx: int(chance.random() < 0.3) for idx in new},
    )


# What is done to the staged rows of a clean version, and the reason.
FAULTS = {
    "update {activity} set valid_from = valid_from - 365": "shift of the median of valid_from in days: -3",
    "update {activity} set valid_from = valid_from + 365": "the latest valid_from is in the future",
    "update {activity} set valid_to = valid_to - 120": "shift of the median of valid_to in days: -",
    "update {activity} set scd_a = scd_a * 1000": "shift of the median of scd_a: ",
    "update {activity} set scd_a = scd_a * 4 / 3": "of scd_a: ",
    "update {activity} set scd_b = scd_b + 10": "shift of the median of scd_b: 1",
    "update {activity} set valid_to = null": "share of rows without valid_to: 1",
    "insert into {activity} values (1, '2999-01-01', null, 1, 1)": "the latest valid_from is in the future: 2999-01-01",
    "delete from {profiles} where idx % 10 = 3; delete from {activity} where idx % 10 = 3": "clients that are gone, in",
    "update {profiles} set idx = idx + 9999; update {activity} set idx = idx + 9999": "clients that are new, in %: 100",
    "update {profiles} set attr_a = attr_a * 7": "shift of the median of attr_a: ",
    "update {profiles} set attr_b = 'Z' where idx % 9 = 0": "share of attr_b Z",
    "update {labels} set label = 1 - label": "share of label 1",
}
STAGED = ("profiles", "activity", "labels")
# What staging records of its rows.
RECORD = (
    "update pipeline.loads set max_date = (select max(valid_from) from {activity}) where staged_table = '{activity}'"
)


def stage(database: Database, files: Files, version: Version, with_tier: list[str] | None = None) -> Run:
    """Stage a version that is requested on its day; with other rows of the profiles, which have a column tier."""
    profiles = (f"{idx},{','.join(map(str, row))}" for idx, row in version.profiles.items())
    activity = (f"{idx},{begun},{ended or ''},{a!r},{b}" for idx, begun, ended, a, b in version.activity)
    write_customers(files, profiles, activity, (f"{idx},{label}" for idx, label in version.labels.items()))
    if with_tier:
        files.write("customer_profiles.csv", csv_text.profiles(*with_tier).replace("\n", ",tier\n", 1))
    run = Run(database, CUSTOMERS)
    run.run("stage_customer_profiles", "stage_customer_activity", "stage_labels")
    database.run(f"update pipeline.loads set requested_at = '{version.today}' where run_id = '{run.name}'")
    return run


def anomalies(run: Run) -> str | None:
    """What compare_customers finds unusual in a staged version."""
    run.run("check_customers", "compare_customers")
    query = f"select string_agg(anomalies, '; ' order by load_id) from pipeline.loads where run_id = '{run.name}'"
    [(found,)] = run.database.run(query)
    return None if found is None else str(found)


def anomalies_of_faults(run: Run) -> dict[str, str | None]:
    """What is found in a staged version after each fault; what a fault has changed is changed back."""
    tables = run.database.run(f"select staged_table from pipeline.loads where run_id = '{run.name}' order by load_id")
    places = {name: table for name, (table,) in zip(STAGED, tables, strict=True)}
    found = {}
    with run.database.connect() as admin:
        for name, table in places.items():
            admin.execute(f"create temporary table {name} as table {table}".encode())
        for change in FAULTS:
            admin.execute(f"{change}; {RECORD}".format(**places).encode())
            found[change] = anomalies(run)
            for name, table in places.items():
                admin.execute(f"truncate {table}; insert into {table} table {name}".encode())
    return found


def test_drift_is_found_by_its_reason_and_growth_is_not_unusual(database: Database, files: Files) -> None:
    unusual: dict[tuple[int, int], str] = {}
    for seed in range(SEED + 1, SEED + 1 + SEEDS):
        chance = random.Random(seed)  # noqa: S311 - no secret
        version = first_version(chance)
        database.run("truncate customer_profiles, customer_activity, labels, pipeline.files cascade")
        for number in range(VERSIONS):
            run = stage(database, files, version)
            if found := anomalies(run):
                unusual[seed, number] = found
            run.run("publish_customers")
            version = next_version(chance, version)
        if (seed - SEED) % 10 == 1:
            print(of_faults := anomalies_of_faults(stage(database, files, version)))
            assert [change for change, reason in FAULTS.items() if reason not in str(of_faults[change])] == []
    print(f"{len(unusual)} of {SEEDS * (VERSIONS - 1)} clean versions are unusual: {unusual}")
    assert len(unusual) * 120 <= SEEDS * (VERSIONS - 1)


def test_a_column_that_one_of_two_files_lacks_is_not_compared(database: Database, files: Files) -> None:
    version = first_version(random.Random(SEED))  # noqa: S311 - no secret
    rows = [f"{idx},{','.join(map(str, row))},{idx % 10}" for idx, row in version.profiles.items()]
    for change in (None, "add tier integer", "drop tier"):
        if change:  # as a migration does
            database.run(f"alter table customer_profiles {change}; alter table staging.customer_profiles {change}")
        run = stage(database, files, version, rows if change == "add tier integer" else None)
        assert anomalies(run) is None
        run.run("publish_customers")


def test_a_comparison_that_is_repeated_finds_what_is_unusual_now(database: Database, files: Files) -> None:
    version = first_version(random.Random(SEED))  # noqa: S311 - no secret
    rare = {idx: (a, "Z" if idx % 5 == 0 else b, c) for idx, (a, b, c) in version.profiles.items()}
    published = stage(database, files, replace(version, profiles=rare))
    published.run("check_customers", "compare_customers", "publish_customers")
    earlier = stage(database, files, replace(version, profiles=version.profiles | {1: (50, "A", "x")}))
    later = stage(database, files, version)
    assert "share of attr_b Z: 0 %" in str(anomalies(later))
    earlier.run("check_customers", "compare_customers", "publish_customers")
    assert anomalies(later) is None


def test_clients_that_an_earlier_check_has_found_are_forgotten(database: Database, files: Files) -> None:
    def staged(clients: range) -> Run:
        profiles, activity = (f"{n},{n},A,x" for n in clients), (f"{n},2020-01-01,,1,1" for n in clients)
        write_customers(files, profiles, activity, (f"{n},0" for n in clients))
        run = Run(database, CUSTOMERS)
        run.run("stage_customer_profiles", "stage_customer_activity", "stage_labels")
        return run

    staged(range(200)).run("check_customers", "compare_customers", "publish_customers")
    few, later = staged(range(1000, 1050)), staged(range(1000, 1051))
    later.run("check_customers", "compare_customers")
    assert "clients that are gone, in %: 100" in str(anomalies(later))
    few.run("check_customers", "compare_customers", "publish_customers")
    later.run("check_customers", "compare_customers")  # cleared from its check on
    assert anomalies(later) is None
