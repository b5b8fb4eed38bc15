"""The commands that the documents show, and a system to run them on."""

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import DEFAULT_PASSWORDS, ROOT
from support.system import FaultySystem

from company_data.settings import DEFAULT_SOURCE_BASE_URL

BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    document: str
    language: str
    text: str


def blocks(file: Path) -> list[Block]:
    document = str(file.relative_to(ROOT))
    return [Block(document, language, text) for _, language, text in BLOCK.findall(file.read_text())]


def commands(block: Block) -> list[str]:
    """The block's commands, without comments; one that goes on in the next line is one."""
    found, unfinished = [], ""
    for line in block.text.splitlines(keepends=True):
        unfinished += line
        try:
            words = shlex.split(unfinished.replace("\\\n", " "), comments=True)
        except ValueError:  # a quote is still open
            continue
        if unfinished.rstrip().endswith("\\"):
            continue
        if words:
            found.append(re.sub(r"\s+# .*", "", unfinished).strip())
        unfinished = ""
    assert not unfinished.strip(), f"{block.document}: a quote never closes in {block.text}"
    return found


def on_the_system(command: str, system: FaultySystem) -> None:
    """Run it in the folder of a started system.

    Only where the system is differs from what is written: the database's port and passwords, and the bucket, which
    stands in for the public one.
    """
    state = system.state
    text = command.replace("localhost:5432", f"127.0.0.1:{state['postgres_port']}")
    text = text.replace(DEFAULT_SOURCE_BASE_URL, system.environment["SOURCE_BASE_URL"])
    for user in ("admin", "ds_user", "mle_user", "pipeline"):
        login = f"{user}:{DEFAULT_PASSWORDS.get(user, user)}@127.0.0.1:{state['postgres_port']}/companydata"
        text = text.replace(f"postgresql://{login}", system.address(user))
    done = subprocess.run(
        ["/usr/bin/env", "bash", "-ec", text],
        cwd=system.folder,
        env={
            **system.environment,
            # Where this machine has no psql, the one that `make up` names.
            "PATH": f"{os.environ['PATH']}:{system.cluster.programs}",
            "DATABASE_URL": system.address(),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
