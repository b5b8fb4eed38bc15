"""Whatever value the rules of a file accept, every later step can carry."""

import os
import random

import pytest
from conftest import Database, Files
from support import csv_text
from support.steps import MAINTENANCE, Run, build_feature_store, load_customers, load_month

pytestmark = pytest.mark.slow

# Seeded, so that a failure can be repeated: RANDOM_SEED and RANDOM_EXAMPLES make another or a longer search.
SEED = int(os.environ.get("RANDOM_SEED", "20240206"))
EXAMPLES = int(os.environ.get("RANDOM_EXAMPLES", "1"))

INTEGERS = ("-2147483648", "2147483647", "0", "-0", "+7", "00000000000000000012")
FLOATS = ("-1.7976931348623157e308", "1.7976931348623157e308", "5e-324", "-0", "1e-307", ".5", "9" * 100, "-1e308")
DECIMALS = ("9" * 100, "-" + "9" * 100, "1e999", "-1e999", "1e-999", "0." + "0" * 99 + "1", "-0.0", "+1.e-300")
DAYS = ("0001-01-01", "9999-12-31", "2024-02-29", "19000101")
TEXTS = ("", '"a""b,\n;"', "\\N", "NULL", "\U0001f600", "​", "a" * 1000, "'; drop table stores --", "%s", "\\")


def several(chance: random.Random, *columns: tuple[str, ...]) -> list[str]:
    """Rows with a value drawn for each column."""
    return [",".join(chance.choice(values) for values in columns) for _ in range(chance.choice((1, 5, 60)))]


@pytest.mark.parametrize("example", range(EXAMPLES))
def test_extreme_values_of_a_month_are_published(database: Database, files: Files, example: int) -> None:
    chance = random.Random(f"{SEED} {example}")  # noqa: S311 - no secret
    print(f"RANDOM_SEED={SEED} RANDOM_EXAMPLES={EXAMPLES}")
    texts = [text for text in TEXTS if text]
    files.write("stores.csv", csv_text.stores(*(f"{idx},{chance.choice(texts)}" for idx in set(map(int, INTEGERS)))))
    for month in ("2024-02", "2024-03", "2024-04", "2024-05", "2024-06"):
        days = (f"{month}-01", f"{month.replace('-', '/')}/15", f"{month}-28 00:00:00")
        rows = several(chance, INTEGERS, DECIMALS, days, INTEGERS)
        files.write(f"sales/{month}-01/sales.csv", csv_text.sales(*rows))
        load_month(database, f"{month}-01")
        assert database.run(f"select count(*) from sales where date >= '{month}-01'") == [(len(rows),)]
    assert database.run("select * from month_status where status <> 'loaded'") == []
    assert database.run("select count(*) from data_statistics", "ds_user") > [(0,)]


@pytest.mark.parametrize("example", range(EXAMPLES))
def test_extreme_values_of_clients_reach_the_features(database: Database, files: Files, example: int) -> None:
    chance = random.Random(f"{SEED} {example}")  # noqa: S311 - no secret
    print(f"RANDOM_SEED={SEED} RANDOM_EXAMPLES={EXAMPLES}")
    clients = sorted(set(map(int, INTEGERS)))
    for _ in range(3):
        rows = (",".join((str(idx), *map(chance.choice, (INTEGERS, TEXTS, TEXTS)))) for idx in clients)
        files.write("customer_profiles.csv", csv_text.profiles(*rows))
        activity = several(chance, INTEGERS, DAYS, (*DAYS, ""), FLOATS, INTEGERS)
        files.write("customer_activity.csv", csv_text.activity(*activity))
        files.write("labels.csv", csv_text.labels(*(f"{idx},{chance.choice('01')}" for idx in clients)))
        load_customers(database)
        build_feature_store(database, max_loss="100")
        active = {int(row.partition(",")[0]) for row in activity}
        assert database.run("select idx from feature_store order by idx") == [(idx,) for idx in sorted(active)]
    Run(database, MAINTENANCE).run("compare_tables")
    assert database.run("select from pipeline.files where difference is not null") == []
