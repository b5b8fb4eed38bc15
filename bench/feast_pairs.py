"""Feast with its PostgreSQL offline store: features for a frame of pairs. Runs in an interpreter that has feast."""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.answer import answer

# Feast knows the beginning of a row and not its end, and profiles and labels have no days.
SOURCE = """
    select idx, valid_from::timestamp at time zone 'UTC' as begins, attr_a, attr_b, scd_a, scd_b, label
    from public.customer_activity
    inner join public.customer_profiles using (idx)
    inner join public.labels using (idx)
"""


def features_of(url: str, folder: str) -> Any:
    """A function that gives the features of a frame of pairs."""
    from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType  # type: ignore[import-not-found]
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (  # type: ignore[import-not-found]
        PostgreSQLSource,
    )
    from feast.types import Float64, Int64, String  # type: ignore[import-not-found]

    address = urlsplit(url)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(Path(folder) / "registry.db"),
            online_store=None,
            entity_key_serialization_version=3,
            offline_store={
                "type": "postgres",
                "host": address.hostname,
                "port": address.port,
                "database": address.path[1:],
                "db_schema": "bench",
                "user": address.username,
                "password": address.password,
                "sslmode": "prefer",
            },
        )
    )
    client = Entity(name="client", join_keys=["idx"], value_type=ValueType.INT64)
    fields = {"attr_a": Int64, "attr_b": String, "scd_a": Float64, "scd_b": Int64, "label": Int64}
    view = FeatureView(
        name="features",
        entities=[client],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=kind) for name, kind in fields.items()],
        source=PostgreSQLSource(name="activity", query=SOURCE, timestamp_field="begins"),
        online=False,
    )
    store.apply([client, view])
    return lambda pairs: store.get_historical_features(
        entity_df=pairs, features=[f"features:{name}" for name in fields]
    ).to_df()


def main(url: str, file: str) -> None:
    """Find the features of the file's pairs for each line of input."""
    import pandas as pd  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(prefix="bench-feast-") as folder:
        find = features_of(url, folder)
        pairs = pd.read_csv(file).rename(columns={"day": "event_timestamp"})
        pairs["event_timestamp"] = pd.to_datetime(pairs.event_timestamp, utc=True)
        find(pairs[:10])  # imports everything

        def work(_: str) -> dict[str, object]:
            found = find(pairs)
            return {"known": int(found.label.notna().sum()), "sum_of_scd_a": float(found.scd_a.sum())}

        answer(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
