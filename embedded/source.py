"""Where the embedded run reads its files: the source in the settings, or else a sample bucket that it serves."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from datetime import UTC, date, datetime
from urllib.parse import urlsplit

from embedded import processes
from embedded.airflow import pipeline_settings
from embedded.bucket import write_certificates
from embedded.postgres import free_port
from embedded.progress import say
from embedded.sample_data import months_before, write_bucket
from embedded.state import LOGS, ROOT, RUN, State
from services.passwords import without_passwords

SAMPLE_MONTHS = 12

LOADED = """
    select table_name, file_month, source_url
    from pipeline.loads
    inner join pipeline.files using (file_id)
    where status = 'published'
    order by table_name, file_month
"""


def workflow_settings(state: State) -> dict[str, str]:
    """The settings of the workflows. Without SOURCE_BASE_URL they point to the sample bucket, which is started."""
    settings = {name: os.environ[name] for name in pipeline_settings() if os.environ.get(name)}
    if not settings.get("SOURCE_BASE_URL", "").strip():
        return settings | start_bucket(state)
    state.pids.pop("bucket", None)
    return settings


def start_bucket(state: State) -> dict[str, str]:
    """Serve sample files up to last month, and return the settings that point Airflow to them."""
    this_month = datetime.now(UTC).date().replace(day=1)
    if not state.first_month:
        state.first_month = str(months_before(this_month, SAMPLE_MONTHS)[0])
    first = date.fromisoformat(state.first_month)
    count = (this_month.year - first.year) * 12 + this_month.month - first.month
    write_bucket(RUN / "bucket", months_before(this_month, count))

    certificates = RUN / "certificates"
    write_certificates(certificates, ["127.0.0.1", "localhost"])
    if not processes.alive(state.pids.get("bucket"), RUN):
        say("starting the sample bucket")
        state.bucket_port = free_port()
        command = [sys.executable, "-m", "embedded.bucket", "--directory", str(RUN / "bucket")]
        command += ["--certificate-folder", str(certificates), "--port", str(state.bucket_port)]
        state.pids["bucket"] = processes.start(
            command, {**without_passwords(os.environ), "PYTHONPATH": str(ROOT)}, RUN, LOGS / "bucket.log"
        )
        state.save()
    return {
        "SOURCE_BASE_URL": f"https://127.0.0.1:{state.bucket_port}",
        "SOURCE_CA_FILE": str(certificates / "ca.pem"),
        "SALES_FIRST_MONTH": os.environ.get("SALES_FIRST_MONTH") or state.first_month[:7],
    }


def shown_source(state: State) -> str:
    """The source that is used, without its credentials."""
    url = state.settings["SOURCE_BASE_URL"]
    if url == f"https://127.0.0.1:{state.bucket_port}":
        return f"the sample bucket in {RUN / 'bucket'}"
    host, folder = _place(url)
    return f"https://{host}{folder}"


def other_sources(state: State) -> str:
    """Which published files are not from the source that is used, and what to do; empty if all of them are."""
    host, folder = _place(state.settings["SOURCE_BASE_URL"])
    found: dict[str, dict[str, list[date]]] = defaultdict(lambda: defaultdict(list))
    with state.cluster.connect("companydata") as connection:
        for table, month, url in connection.execute(LOADED).fetchall():
            other, path = _place(url)
            # The sample bucket gets another port at each start.
            if without_port(other) != without_port(host) or not path.startswith(f"{folder}/"):
                found[without_port(other)][table].append(month)
    if not found:
        return ""
    lines = [
        f"from {other}: "
        + ", ".join(f"{len(months)} months of {table}" if months[0] else table for table, months in tables.items())
        for other, tables in found.items()
    ]
    return "\n".join(
        [
            f"\nNot all files are from the source that is used, {shown_source(state)}:",
            *lines,
            "make clean and make up load everything from one source. To keep the rest, clear the runs of these months, "
            "and trigger customer_data_load.",
            "",
        ]
    )


def without_port(host: str) -> str:
    """A host without its port."""
    return re.sub(r":\d+$", "", host)


def _place(url: str) -> tuple[str, str]:
    """Host and folder of an address, without credentials."""
    try:
        parts = urlsplit(re.split(r"[?#]", url.strip())[0])
    except ValueError:
        return "…", ""
    # An @ behind the host ends a password that has a / and is not escaped.
    return ("…", "") if "@" in parts.path else (parts.netloc.rpartition("@")[2], parts.path.rstrip("/"))
