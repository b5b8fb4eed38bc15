"""What the numbers depend on besides the code: the machine, PostgreSQL and its settings."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil
import psycopg

# Only where they differ from PostgreSQL's defaults; paths, ports and names of this cluster say nothing of its speed.
SETTINGS = """
    select name, current_setting(name)
    from pg_catalog.pg_settings
    where
        setting is distinct from boot_val
        and source not in ('default', 'override', 'client', 'session')
        and name not in ('port', 'listen_addresses', 'unix_socket_directories')
    order by name
"""


def describe(connection: psycopg.Connection[Any], durable: dict[str, str]) -> dict[str, Any]:
    """The machine and the server, for the head of the output and for the results.

    Args:
        connection: to the server.
        durable: settings that are shown even where they are PostgreSQL's defaults.
    """
    shown = {name: connection.execute("select current_setting(%s)", [name]).fetchall()[0][0] for name in durable}
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "postgresql": connection.execute("show server_version").fetchall()[0][0],
        "settings": {**shown, **dict(connection.execute(SETTINGS).fetchall())},
    }


def show(machine: dict[str, Any]) -> None:
    """Print it."""
    print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"load {machine['load_average']}\n"
        f"PostgreSQL {machine['postgresql']}, Python {machine['python']}\n"
        "PostgreSQL's defaults but for: " + ", ".join(f"{name}={value}" for name, value in machine["settings"].items()),
        flush=True,
    )


def _cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", file.read_text()) if file.exists() else None
    return found[1] if found else platform.machine()
