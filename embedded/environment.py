"""The settings of a command: those of the environment, and then those of .env."""

from __future__ import annotations

import os
import re

from dotenv.parser import parse_stream

from embedded.state import ROOT, RUN, RunError
from services import use_workflows

# Values that docker compose reads in another way: it replaces $NAME, and knows other escapes.
AMBIGUOUS = re.compile(r"""[^=]*=\s*('[^']*\\|"[^"]*[\\$]|#|(?!['"])(?:(?!\s#).)*\$)""", re.DOTALL)


def read_env_file() -> None:
    """Add the settings of .env to the environment, where they are not set. docker compose reads the same file.

    Raises:
        RunError: docker compose would read a line in another way, or not at all.
    """
    file = ROOT / ".env"
    if not file.exists():
        return
    with file.open(encoding="utf-8") as stream:
        for line in parse_stream(stream):
            text = line.original.string.lstrip("\n")
            number = line.original.line + len(line.original.string) - len(text)
            if line.error or (line.key and AMBIGUOUS.match(text)):
                # Not the line itself: it may have a password.
                raise RunError(
                    f"{file}, line {number}: docker compose and the commands would not read the same value. Write the "
                    "line as NAME='value', without a backslash or a single quote in the value. NAME_FILE can name a "
                    "file that has a password."
                )
            if line.key and line.value is not None:
                os.environ.setdefault(line.key, line.value)


def drop_airflow_settings() -> list[str]:
    """Remove the settings of another Airflow from the environment: they would override these. Returns their names."""
    foreign = [
        name for name in os.environ if name.startswith("AIRFLOW__") or name in ("AIRFLOW_CONFIG", "AIRFLOW_HOME")
    ]
    for name in foreign:
        del os.environ[name]
    return sorted(foreign)


def reject_wrong_settings() -> None:
    """Read the settings of the workflows as Airflow does.

    Raises:
        RunError: one is wrong.
    """
    source = os.environ.get("SOURCE_BASE_URL", "").strip()
    if source and not source.lower().startswith("https://"):
        raise RunError("SOURCE_BASE_URL does not begin with https://. Correct it, or unset it for sample data.")
    use_company_data()
    try:
        from company_data.settings import check_settings

        check_settings()
    except ValueError as error:
        raise RunError(str(error)) from None


def use_company_data() -> None:
    """Make the modules of the workflows importable, which import Airflow."""
    os.environ.setdefault("AIRFLOW_HOME", str(RUN / "airflow"))
    use_workflows()


def database_url() -> str:
    """The address in DATABASE_URL, as libpq reads it; empty if it is not set.

    Raises:
        RunError: it is of another database system.
    """
    url = os.environ.get("DATABASE_URL", "").strip()
    # The driver that Alembic uses is of no matter here.
    scheme, _, address = url.partition("://")
    if url and scheme.partition("+")[0] not in ("postgres", "postgresql"):
        raise RunError("DATABASE_URL does not begin with postgresql://. Correct it, or unset it.")
    return url and f"postgresql://{address}"
