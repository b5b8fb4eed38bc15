"""make rotate and make up take other settings over."""

import psycopg
import pytest
import requests
from cryptography.fernet import Fernet
from support import csv_text
from support.system import FaultySystem, months, status

KEYS = ("airflow_password", "jwt_secret", "api_secret", "fernet_key")


def test_other_passwords_new_keys_and_an_earlier_first_month_take_effect_with_a_restart(system: FaultySystem) -> None:
    api = system.api()
    connection = {"connection_id": "of_a_person", "conn_type": "http", "password": "of a person"}
    assert api.session.post(f"{api.url}/api/v2/connections", json=connection).ok
    before = system.state
    first, second, *_ = months(4)
    for month in (first, second):
        file = system.bucket_folder / f"sales/{month}/sales.csv"
        file.parent.mkdir()
        file.write_text(csv_text.sales(f"1,1,{month},1"))

    system.environment |= {
        "ADMIN_PASSWORD": "admin of one's own",
        "PIPELINE_PASSWORD": "its own",
        "AIRFLOW_UI_PASSWORD": 'of "the" UI',
        "DS_USER_PASSWORD": "ds_user",
    }
    assert "rotated the keys" in system.make("rotate")
    system.environment["SALES_FIRST_MONTH"] = f"{first:%Y-%m}"
    printed = system.make("up")
    assert f"started a backfill from {first:%Y-%m} to {second:%Y-%m}" in printed
    assert "sales 4 of 4 months" in printed
    warning = "Every account on this machine can log in with the documented passwords"
    assert f"\n{warning}. Change them: DS_USER_PASSWORD=… make up\n" in printed
    assert warning not in system.output
    exit_status, shown = status(system)
    assert (exit_status, "4 months: 4 loaded" in shown) == (0, True)

    assert "Airflow's database: deleted " in (system.run / "logs/airflow-db-clean.log").read_text()
    after = system.state
    assert all(after[key] != before[key] for key in KEYS)
    with system.connect("airflow") as database:
        query = "select password from connection where conn_id = 'of_a_person'"
        [(encrypted,)] = database.execute(query).fetchall()
    assert Fernet(after["fernet_key"]).decrypt(encrypted.encode()) == b"of a person"
    assert requests.get(f"{api.url}/api/v2/dags", headers=dict(api.session.headers), timeout=30).status_code == 403
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
