"""What keeps a month's cost the same at any length of history, and the tables ready to be distributed."""

import re

import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from conftest import Database, Files
from support import csv_text
from support.steps import SALES, Run, connect, load_month

pytestmark = pytest.mark.slow

MONTHS = ["2023-12-01", "2024-01-01", "2024-02-01"]


def load_months(database: Database, files: Files, rows: int) -> None:
    files.write("stores.csv", csv_text.stores("1,Porto"))
    for month in MONTHS:
        files.write(f"sales/{month}/sales.csv", csv_text.sales(*(f"{n},1,{month},1" for n in range(rows))))
        load_month(database, month)


def tables_in(plan: list[tuple[str]]) -> set[str]:
    """The months of sales that a plan reads, published or staged."""
    return set(re.findall(r" on (sales_[\d_]+)\b", "\n".join(line for (line,) in plan)))


def test_queries_and_the_steps_of_a_load_read_their_month_alone(database: Database, files: Files) -> None:
    load_months(database, files, 10)
    of_february = "select sum(value) from sales where date >= '2024-02-01' and date < '2024-03-01'"
    assert tables_in(database.run(f"explain {of_february}", "ds_user")) == {"sales_2024_02"}
    everything = tables_in(database.run("explain select sum(value) from sales", "ds_user"))
    assert everything == {"sales_2023_12", "sales_2024_01", "sales_2024_02"}
    run = Run(database, SALES, "2024-02-01")
    run.run("stage_sales", "stage_stores", "check_month")
    read = []
    with connect(database) as connection:
        for statement in DbApiHook.split_sql_string(run.dag.get_task("publish_month").sql):
            if re.search(r"\b(from|join) (staged_sales|public\.sales)\b", statement):
                plan = connection.execute(f"explain {statement}", run.parameters("publish_month")).fetchall()
                read.append(tables_in(plan))
            connection.execute(statement, run.parameters("publish_month"))
    staged, published = f"sales_{run.loads['stage_sales']}", "sales_2024_02"
    assert read == [{published}, {staged}, {published}]


def test_a_month_that_is_loaded_again_and_again_takes_the_room_of_two(database: Database, files: Files) -> None:
    load_months(database, files, 12_000)
    size = "select sum(pg_total_relation_size(relid)) from pg_partition_tree('public.sales')"
    sizes = []
    for _ in range(3):
        [(before,)] = database.run(size)
        sizes.append(before)
        load_month(database, "2024-01-01")
        database.run("vacuum public.sales")  # as autovacuum does
    first, second, last = sizes
    # A table is extended by up to 64 pages at a time.
    assert second - first <= first / len(MONTHS) + 64 * 8192
    assert last - second <= 64 * 8192 < first / len(MONTHS)


def test_every_key_has_a_column_by_which_its_table_could_be_distributed(template: Database) -> None:
    keys = template.run("""
        select indrelid::regclass::text, bool_or(attname in ('idx', 'store_idx'))
        from pg_index
        join pg_class on pg_class.oid = indrelid
        join pg_attribute on attrelid = indrelid and attnum = any(indkey)
        where
            indisunique
            and (relnamespace::regnamespace::text in ('public', 'staging') or relname = 'feature_history_known')
        group by indrelid, indexrelid
    """)
    tables = ("stores", "feature_store", "monthly_sales", "partitions.feature_history_known")
    assert set(keys) == {(table, True) for table in tables}
