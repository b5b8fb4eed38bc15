"""Sample files in the shapes of the real source, the same for the same seed, with awkward but valid values."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path

CLIENTS = 5_000
STORES = 40
SALES_A_MONTH = 3_000

CITIES = ["Lisboa", "Porto", "São João da Madeira", "Évora", "Zürich", "Łódź", "Αθήνα", "東京", 'The "Old" Mill, Faro']


def months_before(month: date, count: int) -> list[date]:
    """The first days of the months before one, oldest first."""
    first = month.year * 12 + month.month - 1 - count
    return [date((first + i) // 12, (first + i) % 12 + 1, 1) for i in range(count)]


def write_bucket(folder: Path, months: Sequence[date]) -> None:
    """Write the files that the bucket lacks. A month that exists is never changed."""
    for name, header, rows in (
        ("customer_profiles.csv", ["idx", "attr_a", "attr_b", "attr_c"], _profiles()),
        ("customer_activity.csv", ["idx", "valid_from", "valid_to", "scd_a", "scd_b"], _activity()),
        ("labels.csv", ["idx", "label"], _labels()),
        ("stores.csv", ["idx", "location"], _stores()),
    ):
        _write(folder / name, header, rows)
    for month in months:
        _write(folder / f"sales/{month}/sales.csv", ["idx", "value", "date", "store_idx"], _sales(month))


def _write(file: Path, header: list[str], rows: Iterable[Sequence[object]]) -> None:
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    unfinished.rename(file)


def _random(name: str) -> random.Random:
    return random.Random(f"company data, {name}")  # noqa: S311 - sample values, not secrets


def _profiles() -> Iterable[tuple[int, int, str, str]]:
    numbers = _random("profiles")
    for client in range(1, CLIENTS + 1):
        if client % 500 == 0:  # a client without a profile
            continue
        attr_a, attr_b = numbers.randint(0, 100), numbers.choice("ABCDE")
        yield client, attr_a, attr_b, numbers.choice(["", "x", "yz", "ç1", "a,b"])


def _activity() -> Iterable[Sequence[object]]:
    numbers = _random("activity")
    labels: dict[int, int] = dict(_labels())
    for client in range(1, CLIENTS + 1):
        if client % 400 == 0:  # a client without activity
            continue
        start = date(2019, 1, 1) + timedelta(days=numbers.randint(0, 900))
        periods = 2 if client == 7 else numbers.randint(1, 3)
        for period in range(periods):
            end = start + timedelta(days=numbers.randint(1, 300))
            # Client 7 left: two closed rows, and none that is current.
            current = period == periods - 1 and client != 7
            scd_a, scd_b = numbers.random(), numbers.randint(0, 9)
            # What a client does last follows from what the label says: a model must not see it beforehand.
            if current and period > 0 and labels.get(client):
                scd_b = min(scd_b + 6, 9)
            yield client, start, "" if current else end, f"{scd_a:.17f}", scd_b
            start = end + timedelta(days=1)


def _labels() -> Iterable[tuple[int, int]]:
    numbers = _random("labels")
    profiles = {client: (attr_a, attr_b) for client, attr_a, attr_b, *_ in _profiles()}
    for client in range(1, CLIENTS + 1):
        if client % 300 == 0:  # a client without a label
            continue
        # Something that a model can learn, and more that it cannot.
        attr_a, attr_b = profiles.get(client, (50, "C"))
        chance = 0.1 + 0.006 * attr_a + (0.2 if attr_b in "AB" else 0.0)
        yield client, int(numbers.random() < chance)


def _stores() -> Iterable[Sequence[object]]:
    for store in range(1, STORES + 1):
        yield store, f"{CITIES[store % len(CITIES)]}, {store}"


def _sales(month: date) -> Iterable[Sequence[object]]:
    numbers = _random(f"sales of {month}")
    days = ((month + timedelta(days=31)).replace(day=1) - month).days
    # Three stores take turns to sell nothing, and so get no row in monthly_sales.
    closed = STORES - month.month % 3
    open_stores = [store for store in range(1, STORES + 1) if store != closed]
    for sale in range(1, SALES_A_MONTH + 1):
        value = numbers.randint(1, 500_000) / 100
        refund = numbers.random() < 0.02
        yield (
            sale,
            f"{-value if refund else value:.2f}",
            month + timedelta(days=numbers.randrange(days)),
            numbers.choice(open_stores),
        )
