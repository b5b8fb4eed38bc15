"""The schedule of the sales, whose runs are named by the month of their data: scheduled__2024-01 fires on 1 February.

A plugin, because Airflow's scheduler and API need the schedule and do not read DAG files.
"""

from __future__ import annotations

from typing import Any

from airflow.models.dagrun import DagRun
from airflow.plugins_manager import AirflowPlugin
from airflow.timetables.base import DataInterval
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from pendulum import DateTime
from sqlalchemy import event

SALES_DAG = "sales_load_and_aggregation"


class WholeMonths(CronDataIntervalTimetable):
    """Fires at the start of each month (UTC), for the month that has ended."""

    def __init__(self) -> None:
        """Take no settings: there is one such schedule."""
        super().__init__("@monthly", timezone="UTC")
        self.description = "At the start of each month (UTC), for the month before"

    @property
    def summary(self) -> str:
        """What the UI shows as the schedule, with the description beside it."""
        return "monthly (UTC)"

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> WholeMonths:
        """The schedule, as it is read from Airflow's database."""
        return cls()

    def serialize(self) -> dict[str, Any]:
        """Nothing needs to be kept of it."""
        return {}

    def generate_run_id(
        self, *, run_type: DagRunType, run_after: DateTime, data_interval: DataInterval | None, **extra: Any
    ) -> str:
        """The run's name, for example scheduled__2024-01."""
        month = month_of(data_interval)
        if month is None:
            name: str = super().generate_run_id(
                run_type=run_type, run_after=run_after, data_interval=data_interval, **extra
            )
            return name
        return run_type.generate_run_id(suffix=month)


def month_of(interval: DataInterval | None) -> str | None:
    """The month (YYYY-MM) that an interval covers from its first moment to its last, if it does."""
    if interval and interval.start == interval.start.start_of("month") and interval.end == interval.start.add(months=1):
        return interval.start.format("YYYY-MM")
    return None


def name_backfill(_run: DagRun, _arguments: Any, values: dict[str, Any]) -> None:
    """Name a new run of a backfill by its month too: Airflow 3.3 does not ask the schedule for these names."""
    if values.get("run_type") == DagRunType.BACKFILL_JOB and (month := month_of(values.get("data_interval"))):
        values["run_id"] = DagRunType.BACKFILL_JOB.generate_run_id(suffix=month)


def refuse_by_hand(_run: DagRun, _arguments: Any, values: dict[str, Any]) -> None:
    """Refuse a run of the sales by hand: allowed_run_types could, but then the UI hides its form for backfills too.

    Raises:
        ValueError: the run is one; the UI, the API and the command line show the message.
    """
    by_hand = values.get("run_type") == DagRunType.MANUAL and values.get("triggered_by") != DagRunTriggeredByType.TEST
    if by_hand and values.get("dag_id") == SALES_DAG:
        raise ValueError(
            "Sales are loaded by whole months and not by a single run, so none was started. To load months anew, clear "
            "their runs, or choose Backfill with their first days and All Runs."
        )


class DataMonths(AirflowPlugin):
    """Makes the schedule, the names of backfills and the refusal of runs by hand known to Airflow."""

    name = "data_months"
    timetables = [WholeMonths]  # noqa: RUF012 - declared so by Airflow

    @classmethod
    def on_load(cls, *_args: Any, **_options: Any) -> None:
        """Hook names and refusal in, once for each process."""
        event.listen(DagRun, "init", name_backfill)
        event.listen(DagRun, "init", refuse_by_hand)
