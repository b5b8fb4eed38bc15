"""make up and make rotate take other settings over, on a system of their own."""

from pathlib import Path

import psycopg
import pytest
import requests
from cryptography.fernet import Fernet
from system import System, months, started, status

KEYS = ("airflow_password", "jwt_secret", "api_secret", "fernet_key")


@pytest.mark.slow
def test_other_passwords_new_keys_and_an_earlier_first_month_take_effect_with_a_restart(tmp_path: Path) -> None:
    settings = {"SOURCE_BASE_URL": "", "SALES_FIRST_MONTH": f"{months(1)[0]:%Y-%m}"}
    with started(tmp_path / "tree", settings) as system:
        assert "sales 1 of 1 months" in system.output
        api = system.api()
        connection = {"connection_id": "of_a_person", "conn_type": "http", "password": "of a person"}
        assert api.session.post(f"{api.url}/api/v2/connections", json=connection).ok
        before = system.state

        system.environment |= {
            "ADMIN_PASSWORD": "admin of one's own",
            "PIPELINE_PASSWORD": "its own",
            "AIRFLOW_UI_PASSWORD": 'of "the" UI',
        }
        assert "rotated the keys" in system.make("rotate")
        first, second, _ = months(3)
        system.environment["SALES_FIRST_MONTH"] = f"{first:%Y-%m}"
        printed = system.make("up")
        assert f"started a backfill from {first:%Y-%m} to {second:%Y-%m}" in printed
        assert "sales 3 of 3 months" in printed
        exit_status, shown = status(system)
        assert (exit_status, "3 months: 3 loaded" in shown) == (0, True)

        after = system.state
        assert all(after[key] != before[key] for key in KEYS)
        with system.connect("airflow") as database:
            query = "select password from connection where conn_id = 'of_a_person'"
            [(encrypted,)] = database.execute(query).fetchall()
        assert Fernet(after["fernet_key"]).decrypt(encrypted.encode()) == b"of a person"
        assert requests.get(f"{api.url}/api/v2/dags", headers=dict(api.session.headers), timeout=30).status_code == 403
        assert_rejected(system, "admin", "admin")
        assert_rejected(system, "pipeline", "pipeline-laptop")
        assert_rejected(system, "airflow", before["airflow_password"])
        # They are kept for commands in another environment.
        assert after["passwords"]["PIPELINE_PASSWORD"] == "its own"


def assert_rejected(system: System, user: str, password: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=system.state["postgres_port"], dbname="postgres", user=user, password=password
        )
