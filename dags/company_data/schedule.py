"""When the sales run; the schedule itself is a plugin."""

try:
    from data_months import WholeMonths as WholeMonths
except ModuleNotFoundError:
    raise ImportError(
        "Airflow has not loaded plugins/data_months.py, so no month of sales can be scheduled. "
        "Set AIRFLOW__CORE__PLUGINS_FOLDER to this project's folder plugins for all of Airflow's services."
    ) from None
