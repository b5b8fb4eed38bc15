"""The secrets of the containers: no default off this machine, any character, and encrypted connections."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
import yaml
from conftest import ROOT, alembic, new_database
from psycopg.conninfo import make_conninfo
from support import forked

from embedded.postgres import Cluster, free_port
from services.passwords import DEFAULT_PASSWORDS

pytestmark = pytest.mark.slow

REQUIRED = [name for name, default in DEFAULT_PASSWORDS.items() if default]

# What a URL, JSON, a password file, a shell or SQL would have to quote.
NASTY = """a"b'c@d%41/e f\\g:h#i?j$k;l&m=n{o}é"""


COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CELERY = yaml.safe_load((ROOT / "deploy/celery/docker-compose.yml").read_text())


def make_volumes(folder: Path) -> Path:
    """The folders that the service which writes the secrets has, without an overlay's."""
    for volume in COMPOSE["services"]["secrets"]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("secrets-"):
            (folder / Path(target).name).mkdir(parents=True)
    return folder


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    return make_volumes(tmp_path)


def command(volumes: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """What the containers run."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_PASSWORD")}
    return forked.run("services.passwords", "--folder", str(volumes), *arguments, environment={**kept, **settings})


def written(volumes: Path) -> dict[str, str]:
    return {str(file.relative_to(volumes)): file.read_text() for file in volumes.rglob("*") if file.is_file()}


@pytest.mark.parametrize("left", REQUIRED)
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - rejected
def test_each_documented_default_is_rejected_where_other_machines_can_connect(
    volumes: Path, left: str, address: str
) -> None:
    others = {name: "of one's own" for name in REQUIRED if name != left}
    done = command(volumes, "write", LISTEN_ADDRESS=address, **others)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: LISTEN_ADDRESS is {address}, so other machines can connect, and these passwords are documented "
        f"defaults: {left}. Nothing was started. Set each of them, or set LISTEN_ADDRESS=127.0.0.1.\n"
    )
    assert written(volumes) == {}


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.53", "::1", "[::1]", "localhost"])
def test_a_laptop_alone_needs_no_settings(volumes: Path, address: str) -> None:
    done = command(volumes, "write", LISTEN_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    assert "hostssl" not in written(volumes)["operational-db/pg_hba.conf"]
    assert "hostssl" not in written(volumes)["airflow-db/pg_hba.conf"]


def test_a_documented_default_of_another_login_is_no_password_of_ones_own(volumes: Path) -> None:
    swapped = dict.fromkeys(REQUIRED, "of one's own") | {"ADMIN_PASSWORD": "ds_user"}
    done = command(volumes, "write", LISTEN_ADDRESS="0.0.0.0", **swapped)  # noqa: S104 - rejected
    assert "documented defaults: ADMIN_PASSWORD." in done.stderr


def test_nothing_that_signs_or_encrypts_has_a_default(volumes: Path, tmp_path: Path) -> None:
    secret = (
        *("airflow/fernet_key", "airflow/jwt_secret", "airflow/api_secret"),
        "airflow-database/airflow_db_password",
    )
    made = (*secret, "operational-db/server.key", "airflow-db/server.key")
    found = []
    for number in (1, 2):
        other = make_volumes(tmp_path / str(number))
        assert command(other, "write").returncode == 0
        found.append(written(other))
    for name in made:
        assert found[0][name] != found[1][name]
        assert len(found[0][name]) >= 40
    # They are kept at the next start, and replaced when asked for.
    again = command(tmp_path / "1", "write")
    assert again.returncode == 0
    kept = written(tmp_path / "1")
    assert {name: kept[name] for name in secret} == {name: found[0][name] for name in secret}
    assert command(tmp_path / "1", "write", "--new-keys").returncode == 0
    new = written(tmp_path / "1")
    assert all(new[name] != kept[name] for name in made)
    assert new["airflow/fernet_key"].split(",")[1] == kept["airflow/fernet_key"]


def test_the_broker_has_a_password_where_it_has_a_volume(volumes: Path) -> None:
    assert command(volumes, "write").returncode == 0
    assert "airflow/broker_url" not in written(volumes)
    (volumes / "broker").mkdir()
    found = []
    for arguments in (["write"], ["write"], ["write", "--new-keys"]):
        assert command(volumes, *arguments).returncode == 0
        password = written(volumes)["broker/broker.conf"].removeprefix("requirepass ").removesuffix("\n")
        assert written(volumes)["airflow/broker_url"] == f"redis://:{password}@broker:6379/0"
        found.append(password)
    assert found[0] == found[1] != found[2]
    assert len(found[2]) >= 40


def test_each_file_is_read_by_its_owner_alone(volumes: Path) -> None:
    assert command(volumes, "write").returncode == 0
    assert {file.stat().st_mode & 0o777 for file in volumes.rglob("*") if file.is_file()} == {0o600}


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
    "data-ready": {"secrets-data-ready"},
    # Of deploy/celery.
    "broker": {"secrets-broker"},
}
WRITERS = {("migrate-operational-db", "secrets-migration"), ("migrate-airflow-db", "secrets-airflow-database")}


def test_each_service_has_the_secrets_that_it_needs_and_writes_none_of_another() -> None:
    readers: dict[str, set[str]] = {}
    writers = set()
    for file in (COMPOSE, CELERY):
        for name, service in file["services"].items():
            if name == "secrets":
                continue
            for volume in service.get("volumes", []):
                source, _, *mode = volume.split(":")
                if source.startswith("secrets-"):
                    readers.setdefault(name, set()).add(source)
                    if mode != ["ro"]:
                        writers.add((name, source))
    assert readers == READERS
    assert writers == WRITERS
    # Neither a password nor a key is in a variable, which tasks inherit and `docker inspect` shows.
    for file in (COMPOSE, CELERY):
        for name, service in file["services"].items():
            for setting, value in (service.get("environment") or {}).items():
                assert name == "secrets" or not re.search(r"://[^/@]*:[^/@]*@", str(value)), (name, setting)


def test_no_secret_is_in_a_volume_whose_readers_do_not_need_it(volumes: Path) -> None:
    passwords = {name: f"{name} of one's own" for name in DEFAULT_PASSWORDS}
    assert command(volumes, "write", **passwords).returncode == 0
    files = written(volumes)
    secrets = passwords | {
        "fernet_key": files["airflow/fernet_key"],
        "jwt_secret": files["airflow/jwt_secret"],
        "api_secret": files["airflow/api_secret"],
        "airflow_db": files["airflow-database/airflow_db_password"],
        "key of operational-db": files["operational-db/server.key"],
        "key of airflow-db": files["airflow-db/server.key"],
    }
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
        "data-ready": {"PIPELINE_PASSWORD"},
    }


def test_an_installation_that_is_older_than_a_volume_keeps_the_password_of_its_database(volumes: Path) -> None:
    for name, text in {
        "airflow_db_password": "new",
        "airflow_db_password.known": "old",
        "ui_passwords.json": "{}",
    }.items():
        (volumes / "airflow" / name).write_text(text)
    assert command(volumes, "write").returncode == 0
    files = written(volumes)
    assert files["airflow-db/airflow_db_password"] == files["airflow-database/airflow_db_password"] == "new"
    assert files["airflow-database/airflow_db_password.known"] == "old"
    assert {file for file in files if file.startswith("airflow/")} == {
        f"airflow/{name}" for name in ("fernet_key", "jwt_secret", "api_secret", "pgpass", "ca.crt")
    }


def test_readers_connect_to_the_data_alone_and_nobody_but_airflow_to_its_server(server: Cluster, volumes: Path) -> None:
    assert command(volumes, "write").returncode == 0
    with psycopg.connect(server.url("postgres", driver="postgresql"), autocommit=True) as connection:
        for database in ("companydata", "airflow"):
            connection.execute(f"create database {database}")
        for user in ("ds_user", "mle_user", "pipeline", "pipeline_owner", "airflow"):
            connection.execute(f"create role {user} login superuser password '{user}'")

    def admitted(volume: str) -> set[tuple[str, str]]:
        # As the server reads it; the file stays the server's own.
        (server.data / "pg_hba.conf").write_text(written(volumes)[f"{volume}/pg_hba.conf"])
        server.stop()
        server.start()
        found = set()
        for user in ("admin", "ds_user", "mle_user", "pipeline", "pipeline_owner", "airflow"):
            for database in ("companydata", "airflow", "postgres", "template1"):
                try:
                    psycopg.connect(server.url(database, user, user, "postgresql")).close()
                    found.add((user, database))
                except psycopg.OperationalError as error:
                    if "no pg_hba.conf entry" not in str(error):
                        raise
        return found

    assert admitted("operational-db") == {
        *(("admin", database) for database in ("companydata", "airflow", "postgres", "template1")),
        *((user, "companydata") for user in ("ds_user", "mle_user", "pipeline", "pipeline_owner", "airflow")),
    }
    assert admitted("airflow-db") == {
        ("airflow", database) for database in ("companydata", "airflow", "postgres", "template1")
    }


def test_connections_are_reserved_on_each_server_of_the_containers() -> None:
    for name in ("operational-db", "airflow-db"):
        assert "-creserved_connections=20" in COMPOSE["services"][name]["command"]


@pytest.fixture
def server() -> Iterator[Cluster]:
    """A server of the test's own, which logs what the containers' do."""
    with Cluster.temporary({"log_statement": "ddl"}) as cluster:
        yield cluster


@pytest.mark.parametrize("from_file", [False, True])
def test_any_character_of_a_password_works_everywhere(
    server: Cluster, volumes: Path, tmp_path: Path, from_file: bool
) -> None:
    settings = {name: f"{NASTY} {name}" for name in DEFAULT_PASSWORDS}
    if from_file:
        for name, password in settings.items():
            (tmp_path / name).write_text(f"{password}\n")
        given = {f"{name}_FILE": str(tmp_path / name) for name in settings}
    else:
        given = settings
    done = command(volumes, "write", **given, OPERATIONAL_DB_HOSTNAME="127.0.0.1")
    assert done.returncode == 0, done.stderr

    database = new_database(server, "companydata")
    migration, airflow = volumes / "migration", volumes / "airflow"
    files = {f"{user.upper()}_PASSWORD_FILE": str(migration / f"{user}_password") for user in USERS}
    assert alembic(database.url(driver="postgresql+psycopg2"), "upgrade", "head", **files).returncode == 0
    for user in USERS:
        with database.connect(user, settings[f"{user.upper()}_PASSWORD"]) as connection:
            assert connection.execute("select current_user").fetchone() == (user,)
    # The file that libpq reads, which has no place for the port of this server.
    passwords = (airflow / "pgpass").read_text().replace(":5432:", f":{server.port}:")
    file = tmp_path / "pgpass"
    file.touch(mode=0o600)
    file.write_text(passwords)
    address = f"postgresql://pipeline@127.0.0.1:{server.port}/companydata?passfile={file}"
    with psycopg.connect(address) as connection:
        assert connection.execute("select current_user").fetchone() == ("pipeline",)
    users = json.loads((volumes / "airflow-ui" / "ui_passwords.json").read_text())
    assert users == {
        "airflow": settings["AIRFLOW_UI_PASSWORD"],
        "viewer": settings["AIRFLOW_VIEWER_PASSWORD"],
    }


USERS = ("ds_user", "mle_user", "pipeline")


def test_a_password_with_a_line_break_is_rejected(volumes: Path) -> None:
    done = command(volumes, "write", DS_USER_PASSWORD="two\nlines")
    assert (done.returncode, done.stderr) == (
        1,
        "error: DS_USER_PASSWORD has a line break. Nothing was started. Set it to one line.\n",
    )


def programs_with_tls() -> str | None:
    """Folder of a PostgreSQL that was built with TLS, which the wheel is not."""
    for folder in [os.environ.get("POSTGRES_BIN"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))][::-1]:
        if folder and (Path(folder) / "postgres").exists():
            linked = subprocess.run(["/usr/bin/ldd", f"{folder}/postgres"], capture_output=True, text=True, check=True)
            if "libssl" in linked.stdout:
                return folder
    return None


@pytest.fixture
def encrypted(volumes: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A server as the containers run it off loopback, with the certificate of the settings in the test's parameter."""
    programs = programs_with_tls()
    if not programs:
        pytest.skip("there is no PostgreSQL with TLS here, such as Debian's package postgresql")
    monkeypatch.setenv("POSTGRES_BIN", programs)
    done = command(
        volumes,
        "write",
        LISTEN_ADDRESS="0.0.0.0",  # noqa: S104 - the server itself listens on loopback
        OPERATIONAL_DB_HOSTNAME="localhost",
        **dict.fromkeys(REQUIRED, "of one's own"),
        **certificate_of_ones_own(volumes, request.param),
    )
    assert done.returncode == 0, done.stderr
    home = Cluster.new_home(volumes / "postgres")
    folder = home / "secrets"
    shutil.copytree(volumes / "operational-db", folder)
    cluster = Cluster(home, 0, NASTY)
    try:
        cluster.create()
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, cluster.data.owner(), cluster.data.group())
        options = (folder / "options").read_text().replace("/run/company-data", str(folder)).split()
        settings = dict(option.removeprefix("-c").split("=") for option in options)
        cluster = cluster.start_on(free_port, {**settings, "hba_file": f"{folder}/pg_hba.conf"})
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(home)


def certificate_of_ones_own(volumes: Path, own: bool) -> dict[str, str]:
    if not own:
        return {}
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(volumes / "own-ca.pem")
    issued.cert_chain_pems[0].write_to_path(volumes / "own.pem")
    issued.private_key_pem.write_to_path(volumes / "own.key")
    files = {"DB_CERTIFICATE_FILE": "own.pem", "DB_KEY_FILE": "own.key", "DB_CA_FILE": "own-ca.pem"}
    return {name: str(volumes / file) for name, file in files.items()}


@pytest.mark.parametrize("encrypted", [False, True], indirect=True, ids=["made here", "of one's own"])
def test_off_this_machine_only_encrypted_connections_are_accepted(encrypted: Cluster, volumes: Path) -> None:
    def connect(**options: Any) -> psycopg.Connection[tuple[object, ...]]:
        address = f"hostaddr=127.0.0.1 port={encrypted.port} user=admin dbname=postgres"
        return psycopg.connect(make_conninfo(address, password=NASTY, **{"host": "localhost", **options}))

    authority = str(volumes / "airflow" / "ca.crt")
    with connect(sslmode="verify-full", sslrootcert=authority) as connection:
        assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)
    with connect() as connection:  # a client that does not verify, as most are by default
        assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry .* no encryption"):
        connect(sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match='does not match host name "elsewhere"'):
        connect(sslmode="verify-full", sslrootcert=authority, host="elsewhere")


def test_a_start_sets_the_passwords_in_the_database_and_no_log_has_them(server: Cluster, volumes: Path) -> None:
    def set_passwords(**settings: str) -> subprocess.CompletedProcess[str]:
        assert command(volumes, "write", **settings).returncode == 0
        return command(
            volumes / "migration",
            *("set-passwords", "operational-db", f"postgresql+psycopg2://admin@127.0.0.1:{server.port}/companydata"),
        )

    with psycopg.connect(server.url("postgres", driver="postgresql"), autocommit=True) as connection:
        connection.execute("create database companydata")
        connection.execute("create role ds_user login")
    assert set_passwords(ADMIN_PASSWORD="admin").returncode == 0
    # Changed twice before a start came so far.
    assert command(volumes, "write", ADMIN_PASSWORD="never set").returncode == 0
    for _ in range(2):
        done = set_passwords(ADMIN_PASSWORD="the next one", DS_USER_PASSWORD="of ds")
        assert done.returncode == 0, done.stderr
    for user, password in (("admin", "the next one"), ("ds_user", "of ds")):
        with psycopg.connect(server.url("companydata", user, password, "postgresql")) as connection:
            assert connection.execute("select current_user").fetchone() == (user,)
    log = server.log.read_text()
    assert "ALTER ROLE" in log.upper()
    assert not [secret for secret in ("the next one", "of ds", "never set") if secret in log]

    with psycopg.connect(server.url("postgres", password="the next one", driver="postgresql")) as connection:
        connection.execute("alter role admin password 'by hand'")
    done = set_passwords(ADMIN_PASSWORD="a third one")
    assert done.returncode == 1
    assert "accepts neither the password of admin that it had nor the one that is set" in done.stderr
