"""What one command of the embedded run leaves for the next: its folder, its records, and the lock of a command."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet

from embedded.postgres import Cluster
from services.passwords import passwords_of

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / ".embedded"
LOGS = RUN / "logs"


class RunError(RuntimeError):
    """The embedded run cannot continue; the message says why and where to look."""


@dataclass
class State:
    """What one command leaves for the next; secrets included, so only its owner may read the file."""

    postgres_home: str = ""
    postgres_port: int = 0
    airflow_port: int = 0
    bucket_port: int = 0
    first_month: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=lambda: passwords_of(os.environ))
    airflow_password: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    api_secret: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    fernet_key: str = field(default_factory=lambda: Fernet.generate_key().decode())

    @classmethod
    def load(cls) -> State:
        """The state of the last command, or a new one."""
        file = RUN / "state.json"
        return cls(**json.loads(file.read_text())) if file.exists() else cls()

    def save(self) -> None:
        """Keep the state for the next command."""
        unfinished = RUN / "state.unfinished"
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n")
        unfinished.rename(RUN / "state.json")

    @property
    def cluster(self) -> Cluster:
        """The server of this run."""
        return Cluster(Path(self.postgres_home), self.postgres_port, self.passwords["ADMIN_PASSWORD"])

    @property
    def is_running(self) -> bool:
        """Whether the server of this run is started."""
        return bool(self.postgres_home) and self.cluster.is_running()


@contextmanager
def only_one_command() -> Iterator[None]:
    """Keep two commands from working on one run at the same time.

    Raises:
        RunError: another one is at work.
    """
    RUN.mkdir(mode=0o700, exist_ok=True)
    RUN.chmod(0o700)
    with (RUN / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                "another make up, restore, rotate, down or clean is at work. Wait for it, or interrupt it."
            ) from None
        yield
