"""`make preview`: what loading a month again would change."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

from embedded import processes
from embedded.airflow import SALES_DAG, raise_failures, ui_url, wait_for_api
from embedded.state import RUN, RunError, State


def preview(month: str) -> None:
    """Load a month up to the point at which it would be published, and print what would change.

    Args:
        month: the month (YYYY-MM).

    Raises:
        RunError: nothing runs here, the month cannot be loaded, or its file is rejected.
    """
    state = State.load()
    if not state.pids or not processes.alive(state.pids.get("scheduler", 0), RUN):
        raise RunError("nothing runs here. make up starts it.")
    try:
        after = (date.fromisoformat(f"{month}-01") + timedelta(days=31)).replace(day=1)
    except ValueError:
        raise RunError(f'MONTH is "{month}", which is no month. Write it as YYYY-MM, for example 2024-02.') from None
    api = wait_for_api(state)
    # Any moment of the month after it; a run has a moment of its own.
    run = api.trigger(SALES_DAG, f"{after}T{datetime.now(UTC):%H:%M:%S.%f}Z", {"preview": True})
    while not (questions := api.questions(SALES_DAG, run)):
        [found] = [found for found in api.runs(SALES_DAG) if found["dag_run_id"] == run]
        raise_failures(api, {SALES_DAG: [found]})
        if found["state"] == "success":
            raise RunError("a later load of the month was published meanwhile, so there is nothing to decide.")
        time.sleep(0.5)
    for question in questions:
        print(question["body"])
    print(f"\nNothing is published. Approve or reject it: {ui_url(state)}/required_actions")
