"""The schedule of the sales, which is a plugin."""

try:
    from monthly_timetable import CLOCKS_DIFFER_BY as CLOCKS_DIFFER_BY
    from monthly_timetable import MonthlyTimetable as MonthlyTimetable
except ModuleNotFoundError:
    raise ImportError(
        "Airflow has not loaded plugins/monthly_timetable.py, so no month of sales can be scheduled. "
        "Set AIRFLOW__CORE__PLUGINS_FOLDER to this project's folder plugins for all of Airflow's services."
    ) from None
