"""A backup of the whole system, restored in another folder, and started there with other settings."""

import re
import shutil
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest
import requests
from cryptography.fernet import Fernet
from support import csv_text
from support.system import KEYS, SALES_DAG, FaultySystem, clear, lend_packages, months, rows, status

from embedded.postgres import free_port
from embedded.state import ROOT
from embedded.tree import copy_tree

LOADED = "select sale_month, value from monthly_sales order by 1"


@pytest.fixture(scope="module")
def restored(system: FaultySystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySystem]:
    """A backup of the system in another folder, where it is not started."""
    api = system.api()
    connection = {"connection_id": "of_a_person", "conn_type": "http", "password": "of a person"}
    assert api.session.post(f"{api.url}/api/v2/connections", json=connection).ok
    folder = tmp_path_factory.mktemp("restored")
    backup, other = f"BACKUP={folder / 'the backup'}", folder / "tree"
    assert "verified" in system.make("backup", backup)
    copy_tree(other)
    lend_packages(other)
    ports = {name: str(free_port()) for name in ("OPERATIONAL_DB_PORT", "AIRFLOW_PORT")}
    (other / ".env").write_text("".join(f"{name}={port}\n" for name, port in ports.items()))
    # The settings of another Airflow: no task could start.
    environment = {**system.environment, "AIRFLOW__CORE__PARALLELISM": "0"}
    environment = {name: value for name, value in environment.items() if name not in ports}
    copy = FaultySystem(other, environment, "", system.bucket_folder, {}, {}, [], system.mail)
    try:
        assert "The passwords are those of the backup's time" in copy.make("restore", backup)
        assert copy.state["postgres_port"] == int(ports["OPERATIONAL_DB_PORT"])
        yield copy
    finally:
        copy.make("clean")


def test_make_restore_brings_a_backup_back_in_another_folder_and_keeps_the_data_that_was_there(
    system: FaultySystem, restored: FaultySystem
) -> None:
    expected = rows(system, LOADED)
    assert rows(restored, LOADED) == expected
    # The newest backup in backups/, without BACKUP.
    restored.make("backup")
    with restored.connect() as connection:
        connection.execute("drop table public.monthly_sales cascade")
    assert "The data that was here before is in" in restored.make("restore")
    assert rows(restored, LOADED) == expected
    # Airflow's own database lets Airflow in, with the keys of the backup.
    with psycopg.connect(restored.address("airflow", "airflow")) as airflow:
        assert airflow.execute("select count(*) > 0 from dag_run").fetchone() == (True,)
    assert {key: restored.state[key] for key in KEYS} == {key: system.state[key] for key in KEYS}


def test_it_starts_beside_the_first_with_another_bucket_other_passwords_new_keys_and_an_earlier_first_month(
    system: FaultySystem, restored: FaultySystem, request: pytest.FixtureRequest
) -> None:
    before, session = restored.state, system.api().session
    empty, first, second, *_ = months(5)
    files = {month: restored.bucket_folder / f"sales/{month}/sales.csv" for month in (first, second)}
    for month, file in files.items():
        file.parent.mkdir()
        file.write_text(csv_text.sales(f"1,many,{month},1"))
        request.addfinalizer(partial(shutil.rmtree, file.parent))
    # As another_bucket.md says: on other ports, and from a bucket of another name.
    [line] = re.findall("&& (SOURCE_BASE_URL=.* make up)", (ROOT / "docs/another_bucket.md").read_text())
    up = line.split()[-2:]
    restored.environment |= {
        "SOURCE_BASE_URL": restored.environment["SOURCE_BASE_URL"].replace("127.0.0.1", "localhost"),
        "ADMIN_PASSWORD": "the operator's own",
        "PIPELINE_PASSWORD": "its own",
        "AIRFLOW_UI_PASSWORD": 'of "the" UI',
        "DS_USER_PASSWORD": "ds_user",
    }
    assert "rotated the keys" in restored.make("rotate")
    restored.environment["SALES_FIRST_MONTH"] = f"{empty:%Y-%m}"
    failed = restored.command("/usr/bin/env", *up)
    assert failed.returncode != 0
    assert "not used: AIRFLOW__CORE__PARALLELISM. " in failed.stdout
    [port] = re.findall(r":(\d+)/", restored.environment["SOURCE_BASE_URL"])
    assert f"source: https://localhost:{port}\n" in failed.stdout
    assert f"started a backfill from {empty:%Y-%m} to {second:%Y-%m}" in failed.stdout
    assert f"Airflow     {restored.url}" in failed.stdout
    [reason] = re.findall("^error: (.*)", failed.stderr, re.M)
    assert reason.startswith(f"sales, {first:%Y-%m} to {second:%Y-%m}: rejected: ")
    assert failed.stderr.count('"many"') == 1

    sales = f"{restored.url}/api/v2/dags/{SALES_DAG}"
    assert restored.api().session.patch(sales, json={"is_paused": True}).ok
    failed = restored.command("/usr/bin/env", *up)
    assert (failed.returncode != 0, f"paused, so nothing of it starts: {SALES_DAG}" in failed.stderr) == (True, True)
    for month, file in files.items():
        file.write_text(csv_text.sales(f"1,1,{month},1"))
    assert restored.api().session.patch(sales, json={"is_paused": False}).ok
    for run in restored.api().runs(SALES_DAG):
        if run["state"] == "failed":
            clear(restored, run["dag_run_id"])
    printed = restored.make("up")
    assert "sales 5 of 5 months" in printed
    assert f"{empty:%Y-%m} is not in the source: its files begin with {first:%Y-%m}" in printed
    warning = "Every account on this machine can log in with the documented passwords"
    assert f"\n{warning}. Change them: DS_USER_PASSWORD=… make up\n" in printed
    assert warning not in system.output
    others = r"from 127\.0\.0\.1: customer_activity, customer_profiles, labels, 2 months of sales\n"
    assert re.search(others, printed)
    exit_status, shown = status(restored)
    assert (exit_status, "5 months of sales: 4 loaded, 1 not_in_source" in shown) == (0, True)
    assert re.search(others, shown)
    checked = restored.make("check-source")
    assert f"the first month is {first:%Y-%m}, the newest {months(1)[0]:%Y-%m}" in checked

    assert "Airflow's database: deleted " in (restored.run / "logs/airflow-db-clean.log").read_text()
    after = restored.state
    assert after["settings"]["SOURCE_BASE_URL"] == restored.environment["SOURCE_BASE_URL"]
    assert all(after[key] != before[key] for key in KEYS)
    [(encrypted,)] = rows(restored, "select password from connection where conn_id = 'of_a_person'", "airflow")
    assert Fernet(after["fernet_key"]).decrypt(encrypted.encode()) == b"of a person"
    # Who was logged in with the old keys is not with the new ones.
    for url, answered in ((system.url, 200), (restored.url, 403)):
        answer = requests.get(f"{url}/api/v2/dags", headers=dict(session.headers), timeout=30)
        assert answer.status_code == answered
    for user, password in {
        "admin": before["passwords"]["ADMIN_PASSWORD"],
        "ds_user": before["passwords"]["DS_USER_PASSWORD"],
        "pipeline": before["passwords"]["PIPELINE_PASSWORD"],
        "airflow": before["airflow_password"],
    }.items():
        server = {"host": "127.0.0.1", "port": after["postgres_port"], "dbname": "postgres"}
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(**server, user=user, password=password)
    # They are kept for commands in another environment.
    assert after["passwords"]["PIPELINE_PASSWORD"] == "its own"
