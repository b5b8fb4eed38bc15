"""What accumulates outside the tables: the files of Airflow's logs."""

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import conf, task

log = logging.getLogger(__name__)

# The DAG processor logs a few megabytes per day. Why a load failed is in the ledger, which is kept.
LOGS_KEPT = timedelta(days=90)


@task
def delete_old_logs() -> str:
    """Delete log files that were not written to for LOGS_KEPT; returns how many, and how many are left."""
    return delete_files(Path(conf.get("logging", "base_log_folder")), datetime.now(UTC) - LOGS_KEPT)


def delete_files(folder: Path, before: datetime) -> str:
    """Delete the files of a folder that were last written before a moment, and folders that are empty then."""
    deleted, kept, size = 0, 0, 0
    # Found first, because deleting a file makes its folder new.
    old = {parent for parent, _, _ in os.walk(folder) if os.stat(parent).st_mtime < before.timestamp()}
    for parent, _, names in os.walk(folder, topdown=False):
        for file in (Path(parent) / name for name in names):
            found = file.lstat()
            if found.st_mtime < before.timestamp():
                file.unlink()
                deleted += 1
            else:
                kept += 1
                size += found.st_size
        if Path(parent) != folder and parent in old and not os.listdir(parent):
            Path(parent).rmdir()
    return f"logs: deleted {deleted} files; {kept} are left, {size / 1e6:,.0f} MB"


@task
def report(*parts: Any) -> str:
    """Put what the tasks returned into one text: each a text, or the one row of a query."""
    text = "\n".join(part if isinstance(part, str) else part[0][0] for part in parts)
    log.info("%s", text)
    return text
