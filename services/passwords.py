"""Passwords, keys and certificates of the containers, as files in volumes, which services/settings.py has written.

A volume holds what its readers need, and they mount it read-only: `operational-db` and `airflow-db` are for the two
servers, `airflow` for Airflow's services, `airflow-ui` for its API server, `status` and `backup` for the services of
that name. Two are written by the one service that changes a server's passwords, which keeps there the one that the
server has: `migration`, and `airflow-database`, which airflow-db-clean reads too. `broker`, of deploy/celery, is for
the broker.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg import sql

from services import SAFE_PATH

FOLDER = Path("/run/company-data")

# setting: its documented default, which suits a laptop alone.
DEFAULT_PASSWORDS = {
    "ADMIN_PASSWORD": "admin",
    "DS_USER_PASSWORD": "ds_user",
    "MLE_USER_PASSWORD": "mle_user",
    "PIPELINE_PASSWORD": "pipeline-laptop",
    "AIRFLOW_UI_PASSWORD": "airflow",
    "AIRFLOW_VIEWER_PASSWORD": "",  # without one, nobody can log in as viewer
}

CERTIFICATE_LASTS = timedelta(days=825)
RENEWED_BEFORE = timedelta(days=90)

# Of a password where other machines can connect. One that Compose has cut off at a # is often shorter too.
MIN_CHARACTERS = 8

# The server's options if LISTEN_ADDRESS is set.
ENCRYPTED = "-cssl=on -cssl_cert_file=/run/company-data/server.crt -cssl_key_file=/run/company-data/server.key"

# Accounts in the images.
POSTGRES, AIRFLOW, BROKER = 999, 50000, 999


class SecretsError(RuntimeError):
    """The settings are not safe, or the database does not accept them; the message says what to change."""


@dataclass(frozen=True)
class Volume:
    """A folder of secrets, and the account that alone may read them."""

    folder: Path
    account: int

    def read(self, name: str) -> str | None:
        """A secret; None if there is none yet."""
        file = self.folder / name
        return file.read_text() if file.exists() else None

    def write(self, name: str, text: str) -> None:
        """Write a secret as a new file, so that a reader never sees a part of it."""
        unfinished = self.folder / f".{name}"
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(text)
        if os.geteuid() == 0:
            os.chown(unfinished, self.account, self.account)
        unfinished.rename(self.folder / name)


def passwords_of(environment: Mapping[str, str], before: Mapping[str, str] = DEFAULT_PASSWORDS) -> dict[str, str]:
    """Each password: the content of the file that NAME_FILE names, else NAME, else the one before.

    Raises:
        SecretsError: a password has a line break, which PostgreSQL's password files cannot hold.
    """
    found = {}
    for name in DEFAULT_PASSWORDS:
        file = environment.get(f"{name}_FILE")
        # An empty file stands for none: Compose mounts /dev/null where none is set.
        of_file = Path(file).read_text().removesuffix("\n") if file else ""
        found[name] = of_file or environment.get(name) or before[name]
        if "\n" in found[name] or "\r" in found[name]:
            raise SecretsError(f"{name} has a line break. Set it to one line.")
    return found


def without_passwords(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for processes that need no password of DEFAULT_PASSWORDS, and not the address in DATABASE_URL."""
    secret = {name + suffix for name in DEFAULT_PASSWORDS for suffix in ("", "_FILE")} | {"DATABASE_URL"}
    return {name: value for name, value in environment.items() if name not in secret}


def ui_passwords(passwords: Mapping[str, str]) -> str:
    """The file of Airflow's simple auth manager."""
    viewer = passwords["AIRFLOW_VIEWER_PASSWORD"] or secrets.token_urlsafe(32)
    return json.dumps({"airflow": passwords["AIRFLOW_UI_PASSWORD"], "viewer": viewer})


def require_changed(passwords: Mapping[str, str], listen_address: str) -> None:
    """Reject documented defaults and short passwords where others than this machine can connect.

    Raises:
        SecretsError: the ports listen to the network, and a password is one of these.
    """
    if is_loopback(listen_address):
        return
    known = set(DEFAULT_PASSWORDS.values()) - {""}
    reach = f"LISTEN_ADDRESS is {listen_address}, so other machines can connect, and these passwords are"
    remedy = "Set each of them, or set LISTEN_ADDRESS=127.0.0.1."
    if unsafe := [name for name, password in passwords.items() if password in known]:
        raise SecretsError(f"{reach} documented defaults: {', '.join(unsafe)}. {remedy}")
    if short := [name for name, password in passwords.items() if 0 < len(password) < MIN_CHARACTERS]:
        raise SecretsError(
            f"{reach} shorter than {MIN_CHARACTERS} characters: {', '.join(short)}. In .env, a $ or a # ends or "
            f"changes a value that is not in single quotes. {remedy}"
        )


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def write(environment: Mapping[str, str], folder: Path, new_keys: bool = False) -> None:
    """Write the secrets of every service; keys are made where there are none.

    Args:
        environment: the settings.
        folder: the folder with the volumes.
        new_keys: make new keys and a new certificate. What the old Fernet key encrypted can still be read.

    Raises:
        SecretsError: the settings are not safe.
    """
    passwords = passwords_of(environment)
    listen_address = environment.get("LISTEN_ADDRESS") or "127.0.0.1"
    require_changed(passwords, listen_address)
    host = environment.get("OPERATIONAL_DB_HOSTNAME") or "operational-db"
    operational_db = Volume(folder / "operational-db", POSTGRES)
    airflow_db = Volume(folder / "airflow-db", POSTGRES)
    migration = Volume(folder / "migration", AIRFLOW)
    airflow = Volume(folder / "airflow", AIRFLOW)
    airflow_database = Volume(folder / "airflow-database", AIRFLOW)

    def keep(name: str, made: str, volume: Volume = airflow) -> str:
        return made if new_keys else volume.read(name) or made

    fernet = keep("fernet_key", ",".join(filter(None, [Fernet.generate_key().decode(), first_key(airflow)])))
    airflow.write("fernet_key", fernet)
    airflow.write("jwt_secret", keep("jwt_secret", secrets.token_urlsafe(64)))
    airflow.write("api_secret", keep("api_secret", secrets.token_urlsafe(64)))
    of_airflow = keep("airflow_db_password", secrets.token_urlsafe(32), airflow_database)

    write_known(airflow_database, "airflow_db_password", of_airflow)
    airflow_db.write("airflow_db_password", of_airflow)
    write_known(migration, "admin_password", passwords["ADMIN_PASSWORD"])
    operational_db.write("admin_password", passwords["ADMIN_PASSWORD"])
    for user in ("ds_user", "mle_user", "pipeline"):
        migration.write(f"{user}_password", passwords[f"{user.upper()}_PASSWORD"])

    # https://www.postgresql.org/docs/current/libpq-pgpass.html
    migration.write("pgpass", pgpass(host, "*", "admin", passwords["ADMIN_PASSWORD"]))
    as_pipeline = pgpass(host, "companydata", "pipeline", passwords["PIPELINE_PASSWORD"])
    as_airflow = pgpass("airflow-db", "airflow", "airflow", of_airflow)
    status = Volume(folder / "status", AIRFLOW)
    status.write("pgpass", as_pipeline)
    backup = Volume(folder / "backup", POSTGRES)
    backup.write(
        "pgpass",
        pgpass(host, "*", "admin", passwords["ADMIN_PASSWORD"]) + pgpass("airflow-db", "*", "airflow", of_airflow),
    )
    backup.write("admin_password", passwords["ADMIN_PASSWORD"])
    backup.write("airflow_db_password", of_airflow)
    airflow_database.write("pgpass", as_airflow)
    airflow.write("pgpass", as_pipeline + as_airflow)
    Volume(folder / "airflow-ui", AIRFLOW).write("ui_passwords.json", ui_passwords(passwords))
    if (folder / "broker").exists():
        url = keep("broker_url", f"redis://:{secrets.token_urlsafe(32)}@broker:6379/0")
        airflow.write("broker_url", url)
        Volume(folder / "broker", BROKER).write("broker.conf", f"requirepass {urlsplit(url).password}\n")

    write_certificates(environment, [host, "operational-db", "localhost"], operational_db, new_keys)
    write_certificates({}, ["airflow-db", "localhost"], airflow_db, new_keys)
    authority, authority_of_airflow = operational_db.read("ca.crt") or "", airflow_db.read("ca.crt") or ""
    migration.write("ca.crt", authority)
    status.write("ca.crt", authority)
    airflow_database.write("ca.crt", authority_of_airflow)
    for both in (airflow, backup):
        both.write("ca.crt", f"{authority}\n{authority_of_airflow}")
    operational_db.write("pg_hba.conf", host_based_access(listen_address, "admin", "companydata all"))
    airflow_db.write("pg_hba.conf", host_based_access(listen_address, "airflow"))
    for server in (operational_db, airflow_db):
        server.write("options", ENCRYPTED if environment.get("LISTEN_ADDRESS") else "")


def first_key(airflow: Volume) -> str | None:
    """The Fernet key in use: the first one encrypts, and all of them decrypt."""
    keys = airflow.read("fernet_key")
    return keys.split(",")[0] if keys else None


def write_known(volume: Volume, name: str, password: str) -> None:
    """Write a password, and beside it the one that the database has: `set_passwords` changes it to the other."""
    volume.write(name, password)
    if volume.read(f"{name}.known") is None:
        volume.write(f"{name}.known", password)


def pgpass(host: str, database: str, user: str, password: str, port: int = 5432) -> str:
    """A line of a password file."""
    escaped = password.replace("\\", r"\\").replace(":", r"\:")
    return f"{host}:{port}:{database}:{user}:{escaped}\n"


def host_based_access(listen_address: str, admin: str, *others: str) -> str:
    """pg_hba.conf: off this machine only encrypted connections. The socket is inside the container.

    Args:
        listen_address: where the port listens.
        admin: the superuser, who alone connects to every database, and makes backups.
        others: a database and who else connects to it.
    """
    kind = "host" if is_loopback(listen_address) else "hostssl"
    lines = [f"local all {admin} trust"]
    admitted = (f"all {admin}", f"replication {admin}", *others)
    lines += [f"{kind} {each} all scram-sha-256" for each in admitted]
    return "\n".join(lines) + "\n"


def write_certificates(environment: Mapping[str, str], names: Sequence[str], database: Volume, new_keys: bool) -> None:
    """Write server.crt, server.key and ca.crt: your own, or of an authority made here, whose key is not kept.

    Raises:
        SecretsError: one of the files for your own certificate is missing.
    """
    own = {
        name: Path(environment[name]).read_text() if environment.get(name) else ""
        for name in ("DB_CERTIFICATE_FILE", "DB_KEY_FILE", "DB_CA_FILE")
    }
    if any(own.values()):
        if missing := [name for name, text in own.items() if not text]:
            raise SecretsError(
                f"your own certificate needs three files, and {', '.join(missing)} is empty or not set. "
                "Set all three, or none."
            )
        for name, text in zip(("server.crt", "server.key", "ca.crt"), own.values(), strict=True):
            database.write(name, text)
        return
    present, signer = database.read("server.crt"), f"company-data, {database.folder.name}"
    if present and not new_keys and is_good(present, names, signer):
        return
    authority_key, authority = certificate([signer], None)
    server_key, server = certificate(names, (authority_key, authority))
    database.write(
        "server.key",
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
    database.write("server.crt", server.public_bytes(serialization.Encoding.PEM).decode())
    database.write("ca.crt", authority.public_bytes(serialization.Encoding.PEM).decode())


def is_good(pem: str, names: Sequence[str], signer: str) -> bool:
    """Whether a certificate was made here, signed by this authority, has the names, and is not about to expire."""
    found = x509.load_pem_x509_certificate(pem.encode())
    if found.issuer != common_name(signer):
        return False
    subjects = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = found.not_valid_after_utc - datetime.now(UTC)
    return set(names) <= set(subjects.get_values_for_type(x509.DNSName)) and lasts > RENEWED_BEFORE


Authority = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def certificate(names: Sequence[str], authority: Authority | None) -> Authority:
    """A key and its certificate, signed by the authority; without one it is an authority itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = common_name(names[0])
    now = datetime.now(UTC)
    signer = authority[0] if authority else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority[1].subject if authority else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + CERTIFICATE_LASTS)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if authority:
        subjects = [x509.DNSName(each) for each in dict.fromkeys(names)]
        builder = builder.add_extension(x509.SubjectAlternativeName(subjects), critical=False)
    return key, builder.sign(signer, hashes.SHA256())


def common_name(name: str) -> x509.Name:
    """A name as a certificate has it, of its subject or its issuer."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


# server: (the login whose password may have changed, its file, more logins to set).
SERVERS = {
    "operational-db": ("admin", "admin_password", ("ds_user", "mle_user", "pipeline")),
    "airflow-db": ("airflow", "airflow_db_password", ()),
}


def set_passwords(server: str, address: str, folder: Path) -> None:
    """Give the logins of a server the passwords of the settings. Sessions that are connected stay.

    Args:
        server: one of SERVERS.
        address: its URL, without a password.
        folder: the volume with the passwords.

    Raises:
        SecretsError: the server accepts neither the password that it had nor the wanted one.
    """
    user, file, others = SERVERS[server]
    wanted = {user: (folder / file).read_text()}
    for other in others:
        wanted[other] = (folder / f"{other}_password").read_text()
    known = folder / f"{file}.known"
    with log_in(address.replace("+psycopg2:", ":"), user, [known.read_text(), wanted[user]]) as connection:
        alter_roles(connection, wanted)
    known.write_text(wanted[user])


def log_in(address: str, user: str, passwords: Sequence[str]) -> psycopg.Connection[tuple[object, ...]]:
    """Connect with the first password that the server accepts."""
    for password in passwords:
        try:
            return psycopg.connect(address, password=password, options=SAFE_PATH)
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
    raise SecretsError(
        f"the server accepts neither the password of {user} that it had nor the one that is set, so it was changed by "
        f"hand. Nothing was started. In the server's container, set it: psql -U {user} -c '\\password {user}'"
    )


def alter_roles(connection: psycopg.Connection[tuple[object, ...]], passwords: Mapping[str, str]) -> None:
    """Set the passwords of those logins that the server has."""
    with connection.transaction():
        # The verifier is enough to guess the password from, and the server logs data definition.
        connection.execute("set local log_statement = none")
        connection.execute("set local log_min_error_statement = panic")
        for user, password in passwords.items():
            if connection.execute("select from pg_roles where rolname = %s", [user]).fetchone() is not None:
                # The SCRAM verifier is computed here, so that the server's log never holds the password.
                verifier = connection.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256")
                statement = sql.SQL("alter role {} password {}")
                connection.execute(statement.format(sql.Identifier(user), sql.Literal(verifier.decode())))


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.passwords", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the volumes are mounted")
    commands = parser.add_subparsers(dest="command", required=True)
    setting = commands.add_parser("set-passwords", help="give a server's logins the passwords that were written")
    setting.add_argument("server", choices=list(SERVERS))
    setting.add_argument("address", help="its URL, without a password")
    arguments = parser.parse_args()
    try:
        set_passwords(arguments.server, arguments.address, arguments.folder)
    except (SecretsError, OSError, psycopg.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
