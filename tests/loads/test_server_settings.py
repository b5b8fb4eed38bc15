"""Settings of the server, the database or the login that somebody else has chosen change no row and no text."""

from datetime import date
from decimal import Decimal

import pytest
from conftest import Database, Files
from support import csv_text
from support.bucket_files import write_customers
from support.steps import build_feature_store, load_customers, load_month

from company_data.settings import CONNECTION_SETTINGS

pytestmark = pytest.mark.slow

MONTH = "monthly_sales of 2024-02-01: 2 stores, total 10.30, of 2 sales"
BUILD = (
    "feature_store: 2 of 2 clients with a profile; left out: 0 without an activity, 0 without a label "
    "(a client may lack both)"
)
REPORTS = [MONTH, BUILD, MONTH, BUILD]
FOREIGN = """
    array_nulls=off backslash_quote=on bytea_output=escape client_encoding=LATIN1 client_min_messages=error
    constraint_exclusion=off DateStyle=SQL,DMY default_transaction_deferrable=on
    default_transaction_isolation=serializable extra_float_digits=-15 IntervalStyle=iso_8601 quote_all_identifiers=on
    row_security=on search_path=public standard_conforming_strings=off TimeZone=Asia/Tokyo transaction_timeout=1ms
    transform_null_equals=on xmloption=document
"""


def test_settings_of_somebody_else_change_nothing(database: Database, files: Files) -> None:
    files.write("stores.csv", csv_text.stores("1,São Tomé", "2,C:\\n"))
    files.write("sales/2024-02-01/sales.csv", csv_text.sales("1,10.10,2024-02-01,1", "2,0.20,2024-02-29,2"))
    activity = ["1,2023-03-04,2023-04-05,0.12345678901234568,1", "1,2023-04-05,,0.3,2", "2,2023-01-02,,1e-7,3"]
    write_customers(files, ["1,10,A,x", "2,20,B,y"], activity, ["1,0", "2,1"])
    settings = (setting.split("=") for setting in FOREIGN.split())
    database.run(";".join(f"alter database {database.name} set {name} = '{value}'" for name, value in settings))

    reports = [*load_month(database, "2024-02-01"), *load_customers(database), *build_feature_store(database)]
    # What the month is compared with, and the features with what is known of them.
    reports += [*load_month(database, "2024-02-01"), *build_feature_store(database)]

    with database.cluster.connect("postgres") as admin:
        admin.execute(f"alter database {database.name} reset all".encode())
    assert reports == REPORTS
    assert database.run("select * from monthly_sales order by store_idx") == [
        (1, "São Tomé", date(2024, 2, 1), Decimal("10.10")),
        (2, "C:\\n", date(2024, 2, 1), Decimal("0.20")),
    ]
    assert database.run("select * from feature_store order by idx") == [
        (1, 10, "A", 0.3, 2, 0),
        (2, 20, "B", 1e-7, 3, 1),
    ]
    assert database.run("select idx, valid_from, valid_to, scd_a from feature_history order by 1, 2") == [
        (1, date(2023, 3, 4), date(2023, 4, 5), 0.12345678901234568),
        (1, date(2023, 4, 5), None, 0.3),
        (2, date(2023, 1, 2), None, 1e-7),
    ]
    assert database.run("select distinct status, error, anomalies from pipeline.loads order by 1") == [
        ("published", None, None),
        ("superseded", None, None),
    ]


def test_the_login_has_the_settings_that_the_tasks_ask_for(database: Database) -> None:
    """A connection pooler may drop what the tasks ask for."""
    [(of_role,)] = database.run("select setconfig from pg_db_role_setting where setrole = 'pipeline'::regrole")
    plain = {setting.lower().replace('"', "").replace(" ", "") for setting in of_role}
    asked = {
        f"{name.lower()}={value.lower()}".replace("\\ ", "").replace(" ", "")
        for name, value in CONNECTION_SETTINGS.items()
        if not name.startswith("tcp_")
    }
    assert asked - plain == set()
