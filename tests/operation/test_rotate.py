"""make rotate and make up take other settings over."""

import psycopg
import pytest
import requests
from cryptography.fernet import Fernet
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
        file.write_text(f"idx,value,date,store_idx\n1,1,{month},1\n")

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
    for user in ("admin", "pipeline"):
        assert_rejected(system, user, before["passwords"][f"{user.upper()}_PASSWORD"])
    assert_rejected(system, "airflow", before["airflow_password"])
    # They are kept for commands in another environment.
    assert after["passwords"]["PIPELINE_PASSWORD"] == "its own"

    # A documented password is named until it is changed as the line says.
    system.environment["DS_USER_PASSWORD"] = "of ds"
    assert warning not in system.make("up")
    assert_rejected(system, "ds_user", "ds_user")
    with psycopg.connect(system.address("ds_user")) as connected:
        assert connected.info.password == "of ds"


def assert_rejected(system: FaultySystem, user: str, password: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=system.state["postgres_port"], dbname="postgres", user=user, password=password
        )
