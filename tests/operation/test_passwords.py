"""The secrets of the containers: no default off this machine, any character, and encrypted connections."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
import yaml
from conftest import ROOT, alembic, new_database
from cryptography.hazmat.primitives.serialization import Encoding
from psycopg.conninfo import make_conninfo
from support import forked

from embedded.postgres import Cluster, free_port
from services import passwords
from services.passwords import DEFAULT_PASSWORDS, SecretsError

pytestmark = pytest.mark.slow

REQUIRED = [name for name, default in DEFAULT_PASSWORDS.items() if default]
OWN = dict.fromkeys(REQUIRED, "the operator's own")
EVERYWHERE = {"LISTEN_ADDRESS": "0.0.0.0"}  # noqa: S104 - the tests' own servers listen on loopback

# What a URL, JSON, a password file, a shell or SQL would have to quote.
NASTY = """a"b'c@d%41/e f\\g:h#i?j$k;l&m=n{o}é"""

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CELERY = yaml.safe_load((ROOT / "deploy/celery/docker-compose.yml").read_text())


def make_volumes(folder: Path) -> Path:
    """The folders that the service which writes the secrets has, without an overlay's."""
    for volume in COMPOSE["services"]["settings"]["volumes"]:
        if isinstance(volume, str):
            _, target = volume.split(":")
            (folder / Path(target).name).mkdir(parents=True)
    return folder


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    return make_volumes(tmp_path)


def write(volumes: Path, settings: dict[str, str] | None = None, new_keys: bool = False) -> dict[str, str]:
    """Write the secrets as the service does; the text of each file in the volumes."""
    passwords.write(settings or {}, volumes, new_keys)
    return {str(file.relative_to(volumes)): file.read_text() for file in volumes.rglob("*") if file.is_file()}


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the containers run."""
    return forked.run("services.passwords", "--folder", str(folder), *arguments, environment=os.environ)


def test_each_documented_default_is_rejected_where_other_machines_can_connect(volumes: Path) -> None:
    cases = [(name, "0.0.0.0") for name in REQUIRED] + [(REQUIRED[0], each) for each in ("::", "192.0.2.1")]  # noqa: S104
    for left, address in cases:
        settings = {name: text for name, text in OWN.items() if name != left}
        with pytest.raises(SecretsError) as caught:
            write(volumes, {"LISTEN_ADDRESS": address, **settings})
        assert str(caught.value) == (
            f"LISTEN_ADDRESS is {address}, so other machines can connect, and these passwords are documented "
            f"defaults: {left}. Set each of them, or set LISTEN_ADDRESS=127.0.0.1."
        )
    with pytest.raises(SecretsError, match=r"shorter than 8 characters: ADMIN_PASSWORD\. In \.env, a \$ or a # ends"):
        write(volumes, {**EVERYWHERE, **OWN, "ADMIN_PASSWORD": "my#1 x"})
    # Nor is the default of another login a changed password.
    with pytest.raises(SecretsError, match=r"documented defaults: ADMIN_PASSWORD\."):
        write(volumes, {**EVERYWHERE, **OWN, "ADMIN_PASSWORD": "ds_user"})
    assert not [file for file in volumes.rglob("*") if file.is_file()]


def test_a_laptop_alone_needs_no_settings(volumes: Path) -> None:
    for address in ("", "127.0.0.1", "127.0.0.53", "::1", "[::1]", "localhost"):
        found = write(volumes, {"LISTEN_ADDRESS": address})
        assert "hostssl" not in found["operational-db/pg_hba.conf"] + found["airflow-db/pg_hba.conf"]
    assert {file.stat().st_mode & 0o777 for file in volumes.rglob("*") if file.is_file()} == {0o600}


def test_nothing_that_signs_or_encrypts_has_a_default(tmp_path: Path) -> None:
    keys = ("fernet_key", "jwt_secret", "api_secret")
    secret = (*(f"airflow/{key}" for key in keys), "airflow-database/airflow_db_password")
    made = (*secret, "operational-db/server.key", "airflow-db/server.key")
    first, other = (write(make_volumes(tmp_path / name)) for name in "12")
    for name in made:
        assert first[name] != other[name]
        assert len(first[name]) >= 40
    # They are kept at the next start, and replaced when asked for.
    kept = write(tmp_path / "1")
    assert {name: kept[name] for name in secret} == {name: first[name] for name in secret}
    new = write(tmp_path / "1", new_keys=True)
    assert all(new[name] != kept[name] for name in made)
    assert new["airflow/fernet_key"].split(",")[1] == kept["airflow/fernet_key"]


def test_the_broker_has_a_password_where_it_has_a_volume(volumes: Path) -> None:
    assert "airflow/broker_url" not in write(volumes)
    (volumes / "broker").mkdir()
    found = []
    for new_keys in (False, False, True):
        files = write(volumes, new_keys=new_keys)
        password = files["broker/broker.conf"].removeprefix("requirepass ").removesuffix("\n")
        assert files["airflow/broker_url"] == f"redis://:{password}@broker:6379/0"
        found.append(password)
    assert found[0] == found[1] != found[2]
    assert len(found[2]) >= 40


# service: the volumes of secrets that it has; and the two that it writes to, each its own.
READERS = {
    "operational-db": {"secrets-operational-db"},
    "airflow-db": {"secrets-airflow-db"},
    "migrate-operational-db": {"secrets-migration"},
    "migrate-airflow-db": {"secrets-airflow", "secrets-airflow-database"},
    "airflow-db-clean": {"secrets-airflow-database"},
    "airflow-api-server": {"secrets-airflow", "secrets-airflow-ui"},
    "airflow-scheduler": {"secrets-airflow"},
    "airflow-dag-processor": {"secrets-airflow"},
    "airflow-triggerer": {"secrets-airflow"},
    "status": {"secrets-status"},
    "data-ready": {"secrets-status"},
    "backup": {"secrets-backup"},
    "restore": {"secrets-backup"},
    # Of deploy/celery.
    "broker": {"secrets-broker"},
}
WRITERS = {("migrate-operational-db", "secrets-migration"), ("migrate-airflow-db", "secrets-airflow-database")}


def test_each_service_has_the_secrets_that_it_needs_and_writes_none_of_another() -> None:
    readers: dict[str, set[str]] = {}
    writers = set()
    for name, service in [each for file in (COMPOSE, CELERY) for each in file["services"].items()]:
        if name == "settings":
            continue
        volumes = [volume for volume in service.get("volumes", []) if isinstance(volume, str)]
        for source, _, *mode in [volume.split(":") for volume in volumes]:
            if source.startswith("secrets-"):
                readers.setdefault(name, set()).add(source)
                if mode != ["ro"]:
                    writers.add((name, source))
        # Neither a password nor a key is in a variable, which tasks inherit and `docker inspect` shows.
        for setting, value in (service.get("environment") or {}).items():
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), (name, setting)
    assert readers == READERS
    assert writers == WRITERS


def test_no_secret_is_in_a_volume_whose_readers_do_not_need_it(volumes: Path) -> None:
    secrets = {name: f"the operator's own {name}" for name in DEFAULT_PASSWORDS}
    files = write(volumes, secrets)
    secrets |= {name: files[f"airflow/{name}"] for name in ("fernet_key", "jwt_secret", "api_secret")}
    secrets |= {f"key of {name}": files[f"{name}/server.key"] for name in ("operational-db", "airflow-db")}
    secrets["airflow_db"] = files["airflow-database/airflow_db_password"]
    found: dict[str, set[str]] = {}
    for file, text in files.items():
        found.setdefault(file.split("/")[0], set()).update(name for name, secret in secrets.items() if secret in text)
    assert found == {
        "operational-db": {"ADMIN_PASSWORD", "key of operational-db"},
        "airflow-db": {"airflow_db", "key of airflow-db"},
        "migration": {"ADMIN_PASSWORD", "DS_USER_PASSWORD", "MLE_USER_PASSWORD", "PIPELINE_PASSWORD"},
        "airflow": {"PIPELINE_PASSWORD", "airflow_db", "fernet_key", "jwt_secret", "api_secret"},
        "airflow-database": {"airflow_db"},
        "airflow-ui": {"AIRFLOW_UI_PASSWORD", "AIRFLOW_VIEWER_PASSWORD"},
        "status": {"PIPELINE_PASSWORD"},
        "backup": {"ADMIN_PASSWORD", "airflow_db"},
    }


def test_readers_connect_to_the_data_alone_and_nobody_but_airflow_to_its_server(volumes: Path) -> None:
    files = write(volumes)
    databases = ("companydata", "airflow", "postgres", "template1")
    users = ("ds_user", "mle_user", "pipeline", "pipeline_owner", "airflow")

    def admitted(server: Cluster, volume: str) -> set[tuple[str, str]]:
        # As the server reads it; the file stays the server's own.
        (server.data / "pg_hba.conf").write_text(files[f"{volume}/pg_hba.conf"])
        server.stop()
        server.start()
        found = set()
        for user in ("admin", *users):
            for database in databases:
                try:
                    psycopg.connect(server.url(database, user, user)).close()
                    found.add((user, database))
                except psycopg.OperationalError as error:
                    if "no pg_hba.conf entry" not in str(error):
                        raise
        return found

    with Cluster.temporary() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            for database in databases[:2]:
                connection.execute(f"create database {database}")
            for user in users:
                connection.execute(f"create role {user} login superuser password '{user}'")
        of_admin = {("admin", database) for database in databases}
        assert admitted(server, "operational-db") == of_admin | {(user, "companydata") for user in users}
        assert admitted(server, "airflow-db") == {("airflow", database) for database in databases}


def test_connections_are_reserved_on_each_server_of_the_containers() -> None:
    for name in ("operational-db", "airflow-db"):
        assert "-creserved_connections=20" in COMPOSE["services"][name]["command"]


USERS = ("ds_user", "mle_user", "pipeline")


def test_a_start_sets_passwords_of_any_character_and_no_log_has_them(tmp_path: Path) -> None:
    settings = {name: f"{NASTY} {name}" for name in DEFAULT_PASSWORDS} | {"OPERATIONAL_DB_HOSTNAME": "127.0.0.1"}
    volumes, migration = make_volumes(tmp_path / "1"), tmp_path / "1/migration"
    for name in DEFAULT_PASSWORDS:
        (tmp_path / name).write_text(f"{settings[name]}\n")
    of_files = write(make_volumes(tmp_path / "2"), {f"{name}_FILE": str(tmp_path / name) for name in DEFAULT_PASSWORDS})
    # The new server has the documented password of admin.
    write(volumes, {**settings, "ADMIN_PASSWORD": "admin"})

    def set_passwords(server: Cluster, **changed: str) -> subprocess.CompletedProcess[str]:
        write(volumes, {**settings, **changed})
        address = f"postgresql+psycopg2://admin@127.0.0.1:{server.port}/companydata"
        return command(migration, "set-passwords", "operational-db", address)

    # It logs what the containers' does.
    with Cluster.temporary({"log_statement": "ddl"}) as server:
        database = new_database(server, "companydata")
        of_users = {f"{user.upper()}_PASSWORD_FILE": str(migration / f"{user}_password") for user in USERS}
        assert alembic(database.url(), "upgrade", "head", **of_users).returncode == 0
        # Changed twice before a start came so far, and started twice.
        write(volumes, {**settings, "ADMIN_PASSWORD": "never set"})
        for _ in range(2):
            done = set_passwords(server)
            assert done.returncode == 0, done.stderr
        for user in ("admin", *USERS):
            assert of_files[f"migration/{user}_password"] == (migration / f"{user}_password").read_text()
            with database.connect(user, settings[f"{user.upper()}_PASSWORD"]) as connection:
                assert connection.execute("select current_user").fetchone() == (user,)
        # The file that libpq reads, which has no place for the port of this server.
        file = tmp_path / "pgpass"
        file.touch(mode=0o600)
        file.write_text((volumes / "airflow/pgpass").read_text().replace(":5432:", f":{server.port}:"))
        with psycopg.connect(
            f"postgresql://pipeline@127.0.0.1:{server.port}/companydata?passfile={file}"
        ) as connection:
            assert connection.execute("select current_user").fetchone() == ("pipeline",)
        assert json.loads((volumes / "airflow-ui/ui_passwords.json").read_text()) == {
            "airflow": settings["AIRFLOW_UI_PASSWORD"],
            "viewer": settings["AIRFLOW_VIEWER_PASSWORD"],
        }

        assert set_passwords(server, DS_USER_PASSWORD="of ds").returncode == 0
        with database.connect("ds_user", "of ds"), database.connect("admin", settings["ADMIN_PASSWORD"]) as connection:
            log = server.log.read_text()
            # Neither a password nor its verifier.
            assert "create table" in log.lower()
            assert not [secret for secret in ('a"b', "of ds", "never set", "SCRAM-SHA-256") if secret in log]
            connection.execute("alter role admin password 'by hand'")
        done = set_passwords(server, ADMIN_PASSWORD="a third one")
        assert done.returncode == 1
        assert "accepts neither the password of admin that it had nor the one that is set" in done.stderr


def test_a_password_with_a_line_break_is_rejected(volumes: Path) -> None:
    with pytest.raises(SecretsError, match=r"^DS_USER_PASSWORD has a line break\. Set it to one"):
        write(volumes, {"DS_USER_PASSWORD": "two\nlines"})


def programs_with_tls() -> str | None:
    """Folder of a PostgreSQL that was built with TLS, which the wheel is not."""
    for folder in [os.environ.get("POSTGRES_BIN"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))][::-1]:
        if folder and (Path(folder) / "postgres").exists():
            linked = subprocess.run(["/usr/bin/ldd", f"{folder}/postgres"], capture_output=True, text=True, check=True)
            if "libssl" in linked.stdout:
                return folder
    return None


def certificate_of_the_operator(folder: Path, *names: str) -> dict[str, str]:
    authority = trustme.CA()
    issued = authority.issue_cert(*names)
    files = {
        "DB_CERTIFICATE_FILE": issued.cert_chain_pems[0],
        "DB_KEY_FILE": issued.private_key_pem,
        "DB_CA_FILE": authority.cert_pem,
    }
    for name, content in files.items():
        content.write_to_path(folder / name)
    return {name: str(folder / name) for name in files}


def test_a_certificate_is_kept_at_the_next_start_and_the_operator_s_own_only_while_it_is_set(volumes: Path) -> None:
    made = "operational-db/server.crt"
    assert write(volumes)[made] == write(volumes)[made]
    own = certificate_of_the_operator(volumes, "operational-db", "localhost")
    # With a common name alone, as older tools make it.
    _, named = passwords.certificate(["operational-db"], None)
    for text in (Path(own["DB_CERTIFICATE_FILE"]).read_text(), named.public_bytes(Encoding.PEM).decode()):
        Path(own["DB_CERTIFICATE_FILE"]).write_text(text)
        assert write(volumes, own)[made] == text
        assert write(volumes)[made] != text


def test_off_this_machine_only_encrypted_connections_are_accepted(
    volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (programs := programs_with_tls()):
        pytest.skip("there is no PostgreSQL with TLS here, such as Debian's package postgresql")
    monkeypatch.setenv("POSTGRES_BIN", programs)
    authority = volumes / "airflow/ca.crt"
    home = Cluster.new_home(volumes / "postgres")
    folder = home / "secrets"
    cluster = Cluster(home, 0, NASTY)
    cluster.create()

    def connect(**options: Any) -> psycopg.Connection[tuple[object, ...]]:
        address = f"hostaddr=127.0.0.1 port={cluster.port} user=admin dbname=postgres"
        return psycopg.connect(make_conninfo(address, password=NASTY, **{"host": "localhost", **options}))

    # With the certificate that is made here, and with the operator's own.
    for certificate in ({}, certificate_of_the_operator(volumes, "localhost")):
        write(volumes, {**EVERYWHERE, **OWN, "OPERATIONAL_DB_HOSTNAME": "localhost", **certificate})
        shutil.copytree(volumes / "operational-db", folder, dirs_exist_ok=True)
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, cluster.data.owner(), cluster.data.group())
        options = (folder / "options").read_text().replace("/run/company-data", str(folder)).split()
        settings = dict(option.removeprefix("-c").split("=") for option in options)
        cluster = cluster.start_on(free_port, {**settings, "hba_file": f"{folder}/pg_hba.conf"})
        try:
            # Most clients do not verify by default.
            for verified in ({"sslmode": "verify-full", "sslrootcert": str(authority)}, {}):
                with connect(**verified) as connection:
                    encrypted = connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
                    assert encrypted.fetchone() == (True,)
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry .* no encryption"):
                connect(sslmode="disable")
            with pytest.raises(psycopg.OperationalError, match='does not match host name "elsewhere"'):
                connect(sslmode="verify-full", sslrootcert=authority, host="elsewhere")
        finally:
            cluster.stop()
    shutil.rmtree(home)
