"""Each file under sql/: given rows, the file as the DAG runs it, expected rows."""

from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, Database, Rows
from steps import SQL, run_on

FEBRUARY = "2024-02-01"
MARCH = "2024-03-01"


def stage(
    database: Database, table: str, rows: Sequence[str], month: str | None = None, outcome: str = "checked"
) -> int:
    """Stage rows, written as SQL, as the loader would, and return the load."""
    with database.connect("pipeline") as connection, connection.transaction():
        if month:
            connection.execute("select pipeline.prepare_month(%s)", [month])
        [(target,)] = connection.execute("select pipeline.begin_staging(%s, %s)", [table, month]).fetchall()
        if rows:
            connection.execute(f"insert into staging.{target} values {', '.join(rows)}")
        connection.execute("select pipeline.end_staging(%s, %s)", [table, month])
        connection.execute(
            """
            update pipeline.file_loads set outcome = 'replaced'
            where table_name = %s and sale_month is not distinct from %s::date and outcome in ('staged', 'checked')
            """,
            [table, month],
        )
        [(load,)] = connection.execute(
            """
            insert into pipeline.file_loads
                (table_name, sale_month, address, sha256, row_count, dag_run, started_at, outcome)
            values (%s, %s, %s, %s, %s, 'test', clock_timestamp(), %s)
            returning load_id
            """,
            [table, month, f"https://bucket/{table}.csv", str(sorted(rows)), len(rows), outcome],
        ).fetchall()
        if table == "sales" and month and outcome == "checked":
            staged = f"staging.sales_{month[:7].replace('-', '_')}"
            connection.execute(f"""
                insert into pipeline.sales_by_store
                select {load}, store_idx, count(*), min(idx), max(date), sum(value) from {staged} group by store_idx
            """)
            connection.execute(f"select pipeline.seal_staged_month({load})")
        return int(load)


def given_sales(database: Database, *rows: str) -> None:
    """Months from December 2023 to March 2024 in public.sales, with these rows."""
    for month, after in (
        ("2023_12", "2024-01-01"),
        ("2024_01", FEBRUARY),
        ("2024_02", MARCH),
        ("2024_03", "2024-04-01"),
    ):
        first = f"{month.replace('_', '-')}-01"
        database.run(
            f"create table partitions.sales_{month} partition of sales for values from ('{first}') to ('{after}')"
        )
    if rows:
        database.run(f"insert into sales values {', '.join(rows)}")


def test_every_sql_file_is_run_by_a_test_of_this_file_and_by_a_dag() -> None:
    dags = "".join(file.read_text() for file in (ROOT / "dags").glob("*.py"))
    tests = Path(__file__).read_text()
    for file in SQL.rglob("*.sql"):
        name = str(file.relative_to(SQL))
        assert f'sql="{name}"' in dags or f"{{% include '{name}' %}}" in dags
        assert f'"{name}"' in tests


def test_prepare_month_makes_the_partition_of_staged_stores_once(database: Database) -> None:
    for month in ("2023-12-01", FEBRUARY, FEBRUARY):
        database.run(f"select pipeline.prepare_month('{month}')", "pipeline")
    assert database.run("""
        select inhrelid::regclass::text, pg_get_expr(relpartbound, oid)
        from pg_inherits join pg_class on oid = inhrelid order by 1
    """) == [
        ("staging.stores_2023_12", "FOR VALUES IN ('2023-12-01')"),
        ("staging.stores_2024_02", "FOR VALUES IN ('2024-02-01')"),
    ]
    with pytest.raises(psycopg.errors.RaiseException, match="2024-02-02 is not the first day of a month"):
        database.run("select pipeline.prepare_month('2024-02-02')", "pipeline")


def given_february(database: Database) -> tuple[int, int]:
    """Three months with sales, February staged; returns its loads of sales and stores."""
    given_sales(database, "(1, 5, '2024-01-31', 1)", "(2, 6, '2024-02-10', 1)", "(3, 7, '2024-03-01', 2)")
    database.run("insert into stores values (1, 'Old'), (3, 'Gone')")
    stage(database, "sales", ["(7, 70, '2024-03-05', 2)"], MARCH)
    return (
        stage(database, "sales", ["(8, 0.1, '2024-02-01', 1)", "(9, 0.2, '2024-02-29', 1)"], FEBRUARY),
        stage(database, "stores", ["(1, 'Porto')", "(2, 'Faro')"], FEBRUARY),
    )


@pytest.mark.parametrize("times", [1, 2])
def test_replace_month_of_sales_replaces_that_month_alone(database: Database, times: int) -> None:
    load, _ = given_february(database)
    for _ in range(times):
        run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=load)
    assert rows_of_sales(database) == [
        (1, "5", "2024-01-31", 1),
        (8, "0.1", "2024-02-01", 1),
        (9, "0.2", "2024-02-29", 1),
        (3, "7", "2024-03-01", 2),
    ]
    assert outcomes(database, load) == ["published"]


def rows_of_sales(database: Database) -> Rows:
    return database.run("select idx, value::text, date::text, store_idx from sales order by date")


def outcomes(database: Database, *loads: int) -> list[str]:
    return [database.run(f"select outcome from pipeline.file_loads where load_id = {load}")[0][0] for load in loads]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("delete from pipeline.sales_by_store", "the file had 2 rows, but staging holds 0"),
        ("update pipeline.file_loads set outcome = 'staged'", "the load has not been checked"),
        ("update pipeline.file_loads set outcome = 'replaced'", "another run has staged this file since"),
        (
            "update pipeline.file_loads set outcome = 'refused', problem = 'it smells'",
            "the load was refused: it smells",
        ),
    ],
)
def test_replace_month_of_sales_refuses_what_is_not_checked_and_whole(
    database: Database, before: str, reason: str
) -> None:
    load, _ = given_february(database)
    database.run(f"{before} where load_id = {load}")
    rows = rows_of_sales(database)
    with pytest.raises(psycopg.errors.CheckViolation, match=reason):
        run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=load)
    assert rows_of_sales(database) == rows


@pytest.mark.parametrize("times", [1, 2])
def test_publish_stores_replaces_all_stores(database: Database, times: int) -> None:
    _, load = given_february(database)
    for _ in range(times):
        run_on(database, "sales/publish_stores.sql", sale_month=FEBRUARY, stores_load=load)
    assert database.run("select * from stores order by idx") == [(1, "Porto"), (2, "Faro")]


def test_publish_stores_keeps_a_newer_file_that_another_month_has_published(database: Database) -> None:
    _, older = given_february(database)
    newer = stage(database, "stores", ["(1, 'Braga')"], MARCH)
    run_on(database, "sales/publish_stores.sql", sale_month="2024-03-01", stores_load=newer)
    reports = run_on(database, "sales/publish_stores.sql", sale_month=FEBRUARY, stores_load=older)
    assert reports == [
        "https://bucket/stores.csv: not used: a newer file was published before this one; the table keeps that one"
    ]
    assert database.run("select * from stores") == [(1, "Braga")]
    assert database.run("select row_count from data_freshness where table_name = 'stores'") == [(1,)]


@pytest.mark.parametrize("times", [1, 2])
def test_replace_month_of_monthly_sales_sums_exactly_and_skips_stores_without_sales(
    database: Database, times: int
) -> None:
    given_february(database)
    database.run("insert into stores values (2, 'Closed')")
    sold = ["(4, 0.1, '2024-02-01', 3)", "(5, 0.2, '2024-02-29', 3)", "(6, 6, '2024-02-10', 1)"]
    load = stage(database, "sales", sold, FEBRUARY)
    run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=load)
    database.run("insert into monthly_sales values (9, 'Other', '2024-01-01', 1), (9, 'Stale', '2024-02-01', 1)")
    for _ in range(times):
        reports = run_on(database, "sales/replace_month_of_monthly_sales.sql", sale_month=FEBRUARY)
    assert database.run(
        "select store_idx, location, sale_month::text, value::text from monthly_sales order by 3, 1"
    ) == [
        (9, "Other", "2024-01-01", "1"),
        (1, "Old", "2024-02-01", "6"),
        (3, "Gone", "2024-02-01", "0.3"),
    ]
    assert reports == ["monthly_sales of 2024-02-01: 2 stores, total 6.3, of 3 sales"]


def test_replace_month_of_monthly_sales_closes_the_load_and_tells_what_has_changed(database: Database) -> None:
    load, stores = given_february(database)
    steps = ["sales/replace_month_of_sales.sql", "sales/replace_month_of_monthly_sales.sql"]
    run_on(database, "sales/publish_stores.sql", sale_month=FEBRUARY, stores_load=stores)
    for step in steps:
        reports = run_on(database, step, sale_month=FEBRUARY, sales_load=load)
    assert reports == ["monthly_sales of 2024-02-01: 1 stores, total 0.3, of 2 sales"]

    load = stage(database, "sales", ["(8, 0.5, '2024-02-01', 1)"], FEBRUARY)
    for step in steps:
        reports = run_on(database, step, sale_month=FEBRUARY, sales_load=load)
    assert "has changed since it was loaded" in reports[1]
    assert "rows 2 -> 1, total 0.3 -> 0.5, SHA-256" in reports[1]
    # The sums of the load that was replaced are not kept, those of the month that waits are.
    assert database.run("select sum(total)::text from pipeline.sales_by_store group by load_id order by load_id") == [
        ("70",),
        ("0.5",),
    ]


def test_a_retried_publish_never_publishes_what_another_run_has_staged_since(database: Database) -> None:
    sales, stores = given_february(database)
    run_on(database, "sales/publish_stores.sql", sale_month=FEBRUARY, stores_load=stores)
    run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=sales)
    rows = rows_of_sales(database)
    # As when the answer to the commit was lost: it is done already.
    run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=sales)
    assert rows_of_sales(database) == rows
    stage(database, "sales", ["(1, 'NaN', '2024-02-01', 1)", "(2, 'NaN', '2024-02-01', 1)"], FEBRUARY, "staged")
    with pytest.raises(psycopg.errors.CheckViolation, match="another run has staged this file since"):
        run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=sales)
    assert rows_of_sales(database) == rows

    loads = stage_customers(database)
    run_on(database, "customer/publish_customer_data.sql", **loads)
    stage(database, "labels", ["(1, 0)", "(1, 1)"], outcome="refused")
    with pytest.raises(psycopg.errors.CheckViolation, match="another run has staged this file since"):
        run_on(database, "customer/publish_customer_data.sql", **loads)
    assert database.run("select * from labels order by idx") == [(1, 0), (2, 1)]


def test_replace_month_of_sales_refuses_sales_of_a_store_that_a_newer_stores_file_lacks(database: Database) -> None:
    load, older = given_february(database)
    newer = stage(database, "stores", ["(2, 'Braga')"], MARCH)
    run_on(database, "sales/publish_stores.sql", sale_month="2024-03-01", stores_load=newer)
    run_on(database, "sales/publish_stores.sql", sale_month=FEBRUARY, stores_load=older)
    rows = rows_of_sales(database)
    problem = r"2 rows are of 1 stores that the newest stores\.csv lacks, the first of them: idx 8 of store 1\."
    with pytest.raises(psycopg.errors.CheckViolation, match=problem):
        run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=load)
    assert rows_of_sales(database) == rows


def test_replace_month_of_monthly_sales_fails_rather_than_drop_a_sale(database: Database) -> None:
    load, _ = given_february(database)
    run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=load)
    database.run("delete from stores")
    with pytest.raises(psycopg.errors.CheckViolation, match="store 1 has sales but is not in stores any more"):
        run_on(database, "sales/replace_month_of_monthly_sales.sql", sale_month=FEBRUARY)


def test_replace_month_of_monthly_sales_fails_without_the_sums_of_the_month(database: Database) -> None:
    load, _ = given_february(database)
    run_on(database, "sales/replace_month_of_sales.sql", sale_month=FEBRUARY, sales_load=load)
    database.run("insert into monthly_sales values (9, 'Kept', '2024-02-01', 1)")
    database.run("delete from pipeline.sales_by_store")
    problem = "sales has 2 rows of the month, but the sums by store that were kept are of 0; .* Clear the whole run"
    with pytest.raises(psycopg.errors.CheckViolation, match=problem):
        run_on(database, "sales/replace_month_of_monthly_sales.sql", sale_month=FEBRUARY)
    assert database.run("select location from monthly_sales") == [("Kept",)]


def check_sales(database: Database, sales: Sequence[str], stores: Sequence[str]) -> str | None:
    """Stage and check a February; returns why it was refused."""
    loads = {
        "sales_load": stage(database, "sales", sales, FEBRUARY, "staged"),
        "stores_load": stage(database, "stores", stores, FEBRUARY, "staged"),
    }
    try:
        run_on(database, "sales/check_sales.sql", sale_month=FEBRUARY, **loads)
    except psycopg.errors.CheckViolation as error:
        assert "refused" in outcomes(database, *loads.values())
        assert database.run("select count(*) from staging.sales") == [(len(sales),)]
        return error.diag.message_primary
    assert outcomes(database, *loads.values()) == ["checked", "checked"]
    return None


PORTO = "(1, 'Porto')"


def test_check_sales_passes_a_good_month_and_notes_its_last_day(database: Database) -> None:
    assert check_sales(database, ["(1, 1, '2024-02-01', 1)", "(2, -1, '2024-02-29', 1)"], [PORTO, PORTO]) is None
    assert database.run("select table_name, last_date::text from pipeline.file_loads order by 1") == [
        ("sales", "2024-02-29"),
        ("stores", None),
    ]
    assert check_sales(database, [], [PORTO]) is None


@pytest.mark.parametrize(
    ("sales", "stores", "reason"),
    [
        (
            ["(1, 1, '2024-02-01', 7)", "(2, 1, '2024-02-01', 8)", "(3, 1, '2024-02-01', 7)"],
            [PORTO],
            "3 rows are of 2 stores that stores.csv lacks, the first of them: idx 1 of store 7, idx 2 of store 8 (",
        ),
        (
            ["(1, 'NaN', '2024-02-01', 1)", "(2, 'Infinity', '2024-02-01', 1)", "(3, '-Infinity', '2024-02-01', 1)"],
            [PORTO],
            "3 rows have a value that is no amount, the first of them: idx 1 with NaN, idx 2 with Infinity, idx 3",
        ),
        (
            [],
            [PORTO, "(1, 'Faro')"],
            "https://bucket/stores.csv: 1 stores have more than one location, the first of them: store 1",
        ),
        (["(1, 'NaN', '2024-02-01', 9)"], [PORTO], "1 rows are of 1 stores that"),
        (["(1, 'NaN', '2024-02-01', 9)"], [PORTO], "1 rows have a value that is no amount"),
    ],
)
def test_check_sales_refuses_a_bad_month_with_numbers_and_the_first_few_rows(
    database: Database, sales: list[str], stores: list[str], reason: str
) -> None:
    assert reason in (check_sales(database, sales, stores) or "")


def stage_customers(
    database: Database, profiles: Sequence[str] = (), labels: Sequence[str] = (), outcome: str = "checked"
) -> dict[str, int]:
    """Two clients, and what else is given; returns the loads."""
    profiles = ["(1, 10, 'A', '')", "(1, 10, 'A', '')", "(2, 20, 'B', null)", *profiles]
    return {
        "profiles_load": stage(database, "customer_profiles", profiles, outcome=outcome),
        "activity_load": stage(database, "customer_activity", ["(1, '2020-01-01', null, 0.1, 1)"], outcome=outcome),
        "labels_load": stage(database, "labels", ["(1, 0)", "(2, 1)", *labels], outcome=outcome),
    }


@pytest.mark.parametrize("times", [1, 2])
def test_publish_customer_data_replaces_all_three_tables_row_by_row(database: Database, times: int) -> None:
    database.run("insert into customer_profiles values (9, 9, 'Z', 'z')")
    loads = stage_customers(database)
    for _ in range(times):
        run_on(database, "customer/publish_customer_data.sql", **loads)
    assert database.run("select * from customer_profiles order by idx") == [
        (1, 10, "A", ""),
        (1, 10, "A", ""),
        (2, 20, "B", None),
    ]
    assert database.run("select idx, valid_from::text, valid_to, scd_a, scd_b from customer_activity") == [
        (1, "2020-01-01", None, 0.1, 1)
    ]
    assert database.run("select * from labels order by idx") == [(1, 0), (2, 1)]
    assert outcomes(database, *loads.values()) == ["published"] * 3


def test_publish_customer_data_publishes_all_files_or_none(database: Database) -> None:
    database.run("insert into customer_profiles values (9, 9, 'Z', 'z')")
    loads = stage_customers(database)
    database.run("truncate staging.labels")
    with pytest.raises(psycopg.errors.CheckViolation, match=r"labels\.csv: the file had 2 rows, but staging holds 0"):
        run_on(database, "customer/publish_customer_data.sql", **loads)
    assert database.run("select * from customer_profiles") == [(9, 9, "Z", "z")]


@pytest.mark.parametrize("times", [1, 2])
def test_empty_staging_keeps_what_is_not_published(database: Database, times: int) -> None:
    loads = stage_customers(database)
    for _ in range(times):
        run_on(database, "customer/empty_staging.sql")
    assert database.run("select count(*) from staging.labels") == [(2,)]
    run_on(database, "customer/publish_customer_data.sql", **loads)
    for _ in range(times):
        run_on(database, "customer/empty_staging.sql")
    assert database.run("select count(*) from staging.labels") == [(0,)]


@pytest.mark.parametrize(
    ("profiles", "labels", "reason"),
    [
        (
            ["(2, 20, 'B', 'c')"],
            [],
            "https://bucket/customer_profiles.csv: 1 clients have two different profiles, the first of them: 2",
        ),
        (
            [],
            ["(2, 0)", "(1, 1)"],
            "https://bucket/labels.csv: 2 clients have two different labels, the first of them: 1, 2",
        ),
        (
            [],
            ["(3, 2)"],
            "https://bucket/labels.csv: 1 rows have a label other than 0 and 1, the first of them: client 3 with 2",
        ),
    ],
)
def test_check_customer_data_refuses_contradictions(
    database: Database, profiles: list[str], labels: list[str], reason: str
) -> None:
    loads = stage_customers(database, outcome="staged")
    run_on(database, "customer/check_customer_data.sql", **loads)
    assert outcomes(database, *loads.values()) == ["checked"] * 3
    loads = stage_customers(database, profiles, labels, "staged")
    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        run_on(database, "customer/check_customer_data.sql", **loads)
    assert reason in str(refusal.value)
    found = outcomes(database, *loads.values())
    assert sorted(found) == ["checked", "checked", "refused"]
    assert found.index("refused") == (0 if profiles else 2)


def test_check_customer_data_refuses_infinite_dates(database: Database) -> None:
    loads = stage_customers(database, outcome="staged")
    loads["activity_load"] = stage(
        database, "customer_activity", ["(7, '2020-01-01', 'infinity', 0, 0)"], outcome="staged"
    )
    with pytest.raises(psycopg.errors.CheckViolation, match=r"infinite date.*client 7 from 2020-01-01 to infinity"):
        run_on(database, "customer/check_customer_data.sql", **loads)


@pytest.mark.parametrize("times", [1, 2])
def test_replace_feature_store_takes_the_latest_activity_of_each_complete_client(
    database: Database, times: int
) -> None:
    database.run(
        "insert into customer_profiles values " + ", ".join(f"({c}, {c}0, 'A', 'x')" for c in (1, 2, 3, 4, 5, 5))
    )
    database.run("insert into labels values (1, 0), (2, 1), (3, 0), (5, 1), (6, 1)")
    database.run("""
        insert into customer_activity values
            (1, '2020-01-01', null, 1.5, 11),          -- current, though another ends later and begins later
            (1, '2021-01-01', '2022-01-01', 9.9, 99),
            (2, '2020-01-01', '2020-06-01', 9.9, 99),  -- none is current: the greatest valid_to
            (2, '2019-01-01', '2020-12-01', 2.5, 22),
            (3, '2020-01-01', null, 9.9, 99),          -- two are current: the latest valid_from
            (3, '2020-02-01', null, 3.5, 33),
            (4, '2020-01-01', null, 9.9, 99),          -- client 4 has no label
            (6, '2020-01-01', null, 9.9, 99)           -- client 6 has no profile, client 5 no activity
    """)
    database.run("insert into feature_store values (77, 0, 'Z', 0, 0, 0)")
    for _ in range(times):
        reports = run_on(database, "feature_store/replace_feature_store.sql")
    assert database.run("select * from feature_store order by idx") == [
        (1, 10, "A", 1.5, 11, 0),
        (2, 20, "A", 2.5, 22, 1),
        (3, 30, "A", 3.5, 33, 0),
    ]
    assert reports == [
        "feature_store: 3 of 5 clients with a profile; left out: 1 without an activity, 1 without a label"
        " (a client may lack both)"
    ]


def test_replace_feature_store_writes_only_what_has_changed(database: Database) -> None:
    database.run("insert into customer_profiles select n, n, 'A', 'x' from generate_series(1, 9) as n")
    database.run("insert into labels select n, 0 from generate_series(1, 9) as n")
    database.run("insert into customer_activity select n, '2020-01-01', null, null, n from generate_series(1, 9) as n")
    run_on(database, "feature_store/replace_feature_store.sql")
    before: dict[int, str] = dict(database.run("select idx, xmin::text || ctid::text from feature_store"))

    database.run("update customer_profiles set attr_b = null where idx = 1")
    database.run("update customer_activity set scd_a = 0.5 where idx = 2")
    database.run(
        "update customer_activity set valid_to = '2020-02-01' where idx = 3"
    )  # alike, but not current any more
    database.run("update labels set label = 1 where idx = 4")
    database.run("delete from customer_profiles where idx = 5")
    database.run("delete from customer_activity where idx = 6")
    database.run("delete from labels where idx = 7")
    database.run("insert into customer_profiles values (10, 10, 'A', 'x')")
    database.run("insert into labels values (10, 0)")
    database.run("insert into customer_activity values (10, '2020-01-01', null, 1, 1)")
    run_on(database, "feature_store/replace_feature_store.sql")
    assert database.run("select * from feature_store where idx in (1, 2, 4, 10) order by idx") == [
        (1, 1, None, None, 1, 0),
        (2, 2, "A", 0.5, 2, 0),
        (4, 4, "A", None, 4, 1),
        (10, 10, "A", 1.0, 1, 0),
    ]
    after: dict[int, str] = dict(database.run("select idx, xmin::text || ctid::text from feature_store"))
    assert sorted(after) == [1, 2, 3, 4, 8, 9, 10]
    assert {idx for idx in after if after[idx] == before.get(idx)} == {3, 8, 9}
    assert database.run("select count(*) from staging.clients") == [(0,)]


def test_replace_feature_store_refuses_a_client_that_would_have_two_rows(database: Database) -> None:
    database.run("insert into customer_profiles values (1, 1, 'A', 'x'), (1, 2, 'A', 'x')")
    database.run("insert into labels values (1, 0)")
    database.run("insert into customer_activity values (1, '2020-01-01', null, 1, 1)")
    with pytest.raises(psycopg.errors.UniqueViolation, match=r"\(idx\)=\(1\)"):
        run_on(database, "feature_store/replace_feature_store.sql")
