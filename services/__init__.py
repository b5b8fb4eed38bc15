"""What every system uses, in containers and embedded: one-shot services for passwords, status and clean-up.

airflow.env has the settings of Airflow that all of them share.
"""

import sys
from pathlib import Path

# Options of every connection: mle_user may create functions in schema public; an unqualified name must not find them.
SAFE_PATH = "-c search_path=pg_catalog,pg_temp"


def use_workflows() -> None:
    """Make the modules of the workflows importable: company_data."""
    if (dags := str(Path(__file__).resolve().parents[1] / "dags")) not in sys.path:
        sys.path.insert(0, dags)
