"""The months that are scheduled, as the settings name them. Without Airflow, because `make status` reads them too."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime

DEFAULT_SALES_FIRST_MONTH = "2020-01"


def first_sales_month(settings: Mapping[str, str] = os.environ) -> datetime:
    """Month at which catch-up begins, as its start in UTC.

    Raises:
        ValueError: SALES_FIRST_MONTH is not written YYYY-MM.
    """
    return _month("SALES_FIRST_MONTH", settings.get("SALES_FIRST_MONTH") or DEFAULT_SALES_FIRST_MONTH)


def last_sales_month(settings: Mapping[str, str] = os.environ) -> datetime | None:
    """Month at which catch-up ends, for a source that has ended; none for one that continues.

    Raises:
        ValueError: SALES_LAST_MONTH is not written YYYY-MM.
    """
    value = settings.get("SALES_LAST_MONTH")
    return _month("SALES_LAST_MONTH", value) if value else None


def _month(setting: str, value: str) -> datetime:
    try:
        if not re.fullmatch(r"\d{4}-\d{2}", value, re.ASCII):  # fromisoformat alone would accept 2020-01-05T10
            raise ValueError(value)
        return datetime.fromisoformat(f"{value}-01").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(
            f'{setting} is "{value}", which is not a month. No month can be scheduled without it; '
            f"write it as YYYY-MM, for example 2020-01."
        ) from None
