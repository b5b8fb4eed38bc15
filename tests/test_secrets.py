"""The secrets of the containers: no default off this machine, any character, and encrypted connections."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import psycopg
import pytest
import trustme
from conftest import alembic, new_database
from psycopg.conninfo import make_conninfo

from local.postgres import Cluster, free_port
from local.secrets import DEFAULT_PASSWORDS

pytestmark = pytest.mark.slow

REQUIRED = [name for name, default in DEFAULT_PASSWORDS.items() if default]

# What a URL, JSON, a password file, a shell or SQL would have to quote.
NASTY = """a"b'c@d%41/e f\\g:h#i?j$k;l&m=n{o}é"""


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for volume in ("database", "migration", "airflow"):
        (tmp_path / volume).mkdir()
    return tmp_path


def command(volumes: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """What the containers run."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_PASSWORD")}
    return forked.run("local.secrets", "--folder", str(volumes), *arguments, environment={**kept, **settings})


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
    assert "hostssl" not in written(volumes)["database/pg_hba.conf"]


def test_a_documented_default_of_another_login_is_no_password_of_ones_own(volumes: Path) -> None:
    swapped = dict.fromkeys(REQUIRED, "of one's own") | {"ADMIN_PASSWORD": "ds_user"}
    done = command(volumes, "write", LISTEN_ADDRESS="0.0.0.0", **swapped)  # noqa: S104 - rejected
    assert "documented defaults: ADMIN_PASSWORD." in done.stderr


def test_nothing_that_signs_or_encrypts_has_a_default(volumes: Path, tmp_path: Path) -> None:
    secret = ("airflow/fernet_key", "airflow/jwt_secret", "airflow/api_secret", "airflow/airflow_db_password")
    found = []
    for number in (1, 2):
        other = tmp_path / str(number)
        for volume in ("database", "migration", "airflow"):
            (other / volume).mkdir(parents=True)
        assert command(other, "write").returncode == 0
        found.append(written(other))
    for name in (*secret, "database/server.key"):
        assert found[0][name] != found[1][name]
        assert len(found[0][name]) >= 40
    # They are kept at the next start, and replaced when asked for.
    again = command(tmp_path / "1", "write")
    assert again.returncode == 0
    kept = written(tmp_path / "1")
    assert {name: kept[name] for name in secret} == {name: found[0][name] for name in secret}
    assert command(tmp_path / "1", "write", "--new-keys").returncode == 0
    new = written(tmp_path / "1")
    assert all(new[name] != kept[name] for name in (*secret, "database/server.key"))
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
    users = json.loads((airflow / "ui_passwords.json").read_text())
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
    shutil.copytree(volumes / "database", folder)
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
