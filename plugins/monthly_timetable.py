"""The schedule of the sales. Runs are named by the month of their data: scheduled__2024-01 starts on 1 February.

A plugin, because the scheduler and the API server use the schedule and do not read DAG files. The base class is that of
`airflow.timetables`, which computes months; the class of the same name in `airflow.sdk` only declares a schedule.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from airflow.utils.types import DagRunType
from pendulum import DateTime, instance

BACKFILL = "To load other months, or several, choose Backfill."
CLOCKS_DIFFER_BY = timedelta(minutes=5)


class MonthlyTimetable(CronDataIntervalTimetable):
    """Runs at the start of each month (UTC), for the month that has ended.

    Attributes:
        first: start of the first month that is scheduled.
        last: start of the last month that is scheduled; None if the schedule does not end.
    """

    def __init__(self, first: datetime, last: datetime | None = None) -> None:
        """Set the months that are scheduled. A backfill may load other months.

        The last month replaces the DAG's end date: Airflow creates no tasks in a manual run with a logical date after
        that date, and the logical date of a manual run lies after its month.
        """
        super().__init__("@monthly", timezone="UTC")
        self.first = instance(first)
        self.last = instance(last) if last else None
        self.description = "At the start of each month (UTC), for the month before"

    @property
    def summary(self) -> str:
        """The text that the UI shows as the schedule."""
        return "monthly (UTC)"

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> MonthlyTimetable:
        """Create the schedule from its row in Airflow's database."""
        return cls(_start(data["first"]), _start(data["last"]) if data["last"] else None)

    def serialize(self) -> dict[str, Any]:
        """The arguments of the constructor, as YYYY-MM."""
        return {"first": _name(self.first), "last": _name(self.last) if self.last else None}

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next month, from the first to the last one, or within those of a backfill."""
        if restriction.latest is None:  # no backfill, which has an end
            restriction = restriction._replace(earliest=self.first, latest=self.last)
        return super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """The last whole month before a logical date.

        Raises:
            ValueError: the run must not be created. The UI, the API and the CLI show the message.
        """
        interval = super().infer_manual_data_interval(run_after=run_after)
        month = _name(interval.start)
        if run_after > instance(datetime.now(UTC)) + CLOCKS_DIFFER_BY:
            raise ValueError(
                f"The logical date {run_after} lies in the future, so the run was not created. Set an earlier logical "
                f"date: the run loads the last whole month before it. {BACKFILL}"
            )
        if interval.start < self.first or (self.last and interval.start > self.last):
            until = f"to {_name(self.last)} (SALES_LAST_MONTH)" if self.last else "on"
            raise ValueError(
                f"{month} is not scheduled: the months are scheduled from {_name(self.first)} (SALES_FIRST_MONTH) "
                f"{until}. The run was not created. Set a logical date in the month after the one to load. {BACKFILL}"
            )
        if run_after == interval.end:
            # Airflow 3.3.2 would never schedule a month again: issues 41208 and 36098.
            raise ValueError(
                f"The logical date {run_after} is that of the scheduled run of {_name(run_after)}, so the run was not "
                f"created. Set another moment of that day to load {month}, for example "
                f"{run_after.add(hours=12).isoformat()}. {BACKFILL}"
            )
        return interval

    def generate_run_id(
        self, *, run_type: DagRunType, run_after: DateTime, data_interval: DataInterval | None, **_: Any
    ) -> str:
        """The name of a run: scheduled__2024-01, or manual__2024-01__ and the time at which it was triggered.

        Raises:
            ValueError: a manual run has no month that can be loaded. The UI, the API and the CLI show the message.
        """
        if data_interval and run_type in (DagRunType.SCHEDULED, DagRunType.BACKFILL_JOB):
            return run_type.generate_run_id(suffix=_name(data_interval.start))
        month = self._require_month(data_interval, run_after)
        return run_type.generate_run_id(suffix=f"{month}__{run_after.isoformat()}")

    def _require_month(self, interval: DataInterval | None, run_after: DateTime) -> str:
        if interval is None:
            raise ValueError(
                "The run has no logical date, so it has no month to load, and was not created. Set a logical date: "
                f"the run loads the last whole month before it. {BACKFILL}"
            )
        month = _name(interval.start)
        if interval != super().infer_manual_data_interval(run_after=interval.end):
            raise ValueError(
                f"The data interval from {interval.start} to {interval.end} is not one whole month (UTC), so the run "
                f"was not created. Set only a logical date: the run loads the last whole month before it. {BACKFILL}"
            )
        if interval.end > run_after:
            raise ValueError(
                f"{month} has not ended, so its file is not complete, and the run was not created. Set an earlier "
                f"logical date: the run loads the last whole month before it. {BACKFILL}"
            )
        return month


def _name(start: datetime) -> str:
    return f"{start:%Y-%m}"


def _start(name: str) -> datetime:
    return datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC)


class MonthlyTimetablePlugin(AirflowPlugin):
    """Registers the timetable with Airflow."""

    name = "monthly_timetable"
    timetables = [MonthlyTimetable]  # noqa: RUF012 - declared so by Airflow
