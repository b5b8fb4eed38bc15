"""`make examples` and `make report`: the programs of examples/, run as ds_user."""

from __future__ import annotations

import os
import subprocess
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql

from embedded.environment import database_url
from embedded.progress import say
from embedded.state import ROOT, RunError, State
from services import SAFE_PATH


def examples() -> None:
    """Train a classifier and draw the monthly sales.

    Raises:
        RunError: as of _run, as is psycopg.Error.
    """
    folder = ROOT / ("docs/pictures" if os.environ.get("PICTURES") else "examples/pictures")
    folder.mkdir(exist_ok=True)
    say("training a classifier on the features")
    _run("feature_store", "train_classifier.py", "--picture", str(folder / "roc_curve.png"))
    say("drawing the sales per month")
    _run("monthly_sales", "plot_monthly_sales.py", "--picture", str(folder / "monthly_sales.png"))
    print(f"pictures: {folder}")


def report() -> None:
    """Write report.html.

    Raises:
        RunError: as of _run, as is psycopg.Error.
    """
    page = ROOT / "report.html"
    say("writing the report")
    _run("month_status", "report.py", "--page", str(page))
    print(f"open {page.as_uri()}, or Report in the menu of Airflow")


def _run(table: str, name: str, *arguments: str) -> None:
    """Run an example on what runs here, or on the database of DATABASE_URL.

    Raises:
        RunError: nothing runs here, or the example failed.
        psycopg.Error: the database does not accept the login, or it may not read the table yet that the example reads.
    """
    if url := database_url():
        address, parts, password = url, urlsplit(url), os.environ.get("PGPASSWORD", "")
        if parts.password:
            # Other accounts see the arguments of a process.
            password = unquote(parts.password)
            address = parts._replace(netloc=f"{parts.username}@{parts.netloc.rpartition('@')[2]}").geturl()
    else:
        state = State.load()
        if not state.is_running:
            raise RunError("nothing runs here. make up starts it; with DATABASE_URL another database is read.")
        password = state.passwords["DS_USER_PASSWORD"]
        address = f"postgresql://ds_user@127.0.0.1:{state.postgres_port}/companydata"
    with psycopg.connect(address, password=password, options=SAFE_PATH) as connection:
        connection.execute(sql.SQL("select from public.{} limit 1").format(sql.Identifier(table)))
    command = [str(ROOT / ".venv-examples/bin/python"), str(ROOT / "examples" / name), "--url", address, *arguments]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "PGPASSWORD": password}, check=False).returncode != 0:
        raise RunError(f"examples/{name} failed; its message is above.")
