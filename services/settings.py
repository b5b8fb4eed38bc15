"""Checks every setting of the containers, and writes what each service needs: `python -m services.settings`.

Airflow's services read the settings of the workflows from the file that is written here (SETTINGS_FILE), so a wrong
setting changes nothing, and a changed one needs no restart.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from services import use_workflows
from services.passwords import AIRFLOW, FOLDER, SecretsError, Volume, passwords_of, require_changed, write

WORKFLOW_SETTINGS = [
    line for line in Path(__file__).with_name("workflows.env").read_text().splitlines() if not line.startswith("#")
]

# Where Airflow's services have the authorities of the source.
SOURCE_CA_FILE = "source-ca.pem"


def check(environment: Mapping[str, str]) -> None:
    """Check all settings.

    Raises:
        SecretsError: some are wrong; each is named with its form.
    """
    use_workflows()
    wrong: list[str] = []

    def collect(check_one: Callable[[], object]) -> None:
        try:
            check_one()
        except (ValueError, SecretsError, OSError) as error:
            wrong.append(str(error))

    collect(lambda: import_module("company_data.settings"))  # checks those of the workflows, for Airflow too
    collect(lambda: check_authorities(environment))
    collect(lambda: require_changed(passwords_of(environment), environment.get("LISTEN_ADDRESS") or "127.0.0.1"))
    collect(lambda: check_certificate(environment))
    if wrong:
        raise SecretsError("\n".join(wrong))


def check_authorities(environment: Mapping[str, str]) -> None:
    """Check SOURCE_CA_FILE; an empty file stands for none, because Compose mounts /dev/null where none is set.

    Raises:
        ValueError: it has no certificate.
    """
    if authorities := content(environment, "SOURCE_CA_FILE"):
        try:
            ssl.create_default_context(cadata=authorities)
        except (ssl.SSLError, ValueError):
            raise ValueError(
                "SOURCE_CA_FILE has no certificates. Name a PEM file with those of the authorities of the source."
            ) from None


def check_certificate(environment: Mapping[str, str]) -> None:
    """Check that your own certificate and its key belong together.

    Raises:
        SecretsError: they do not.
    """
    if content(environment, "DB_CERTIFICATE_FILE") and content(environment, "DB_KEY_FILE"):
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(environment["DB_CERTIFICATE_FILE"], environment["DB_KEY_FILE"], password="")
        except (ssl.SSLError, ValueError):
            raise SecretsError(
                "DB_KEY_FILE is not the key of the certificate in DB_CERTIFICATE_FILE. Name two PEM files that belong "
                "together; the key has no password."
            ) from None


def content(environment: Mapping[str, str], setting: str) -> str:
    """The text of the file that a setting names; empty if it names none."""
    return Path(environment[setting]).read_text() if environment.get(setting) else ""


def write_workflow_settings(environment: Mapping[str, str], folder: Path) -> None:
    """Write the settings of the workflows, which Airflow's services read."""
    settings = {name: environment[name] for name in WORKFLOW_SETTINGS if environment.get(name)}
    airflow = Volume(folder / "airflow", AIRFLOW)
    if authorities := content(environment, "SOURCE_CA_FILE"):
        airflow.write(SOURCE_CA_FILE, authorities)
        settings["SOURCE_CA_FILE"] = str(FOLDER / SOURCE_CA_FILE)
    airflow.write("settings.json", json.dumps(settings))


def main() -> int:
    """Check the settings and write them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.settings", description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the volumes are mounted")
    parser.add_argument("--new-keys", action="store_true", help="make new keys and a new certificate")
    arguments = parser.parse_args()
    try:
        check(os.environ)
        write(os.environ, arguments.folder, arguments.new_keys)
        write_workflow_settings(os.environ, arguments.folder)
    except (SecretsError, OSError) as error:
        print(f"error: the settings are wrong, and nothing was changed.\n{error}", file=sys.stderr)
        return 1
    print("all settings are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
