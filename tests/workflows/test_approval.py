"""Unusual files through Airflow: published, marked and notified, or held back until a person answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Database, Files
from support import csv_text
from support.airflow_runs import AirflowRun
from support.bucket_files import write_customers, write_month
from support.receivers import webhook
from support.steps import CUSTOMERS, MAINTENANCE, SALES, Run, dag, load_month

from company_data import notifier
from company_data.settings import notify_webhook_url
from embedded.postgres import free_port

pytestmark = pytest.mark.slow

MONTH = "2024-07"
MANY, FEW = 100, 10  # rows of a usual month, and of an unusual one


@pytest.fixture(autouse=True)
def default_setting(airflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ON_ANOMALY")


@pytest.fixture
def posted(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the webhook received."""
    with webhook(tmp_path) as (server, posted):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", server.url)
        yield posted


def sell(files: Files, month: str, rows: int) -> None:
    write_month(files, month, *(f"{number},1,{month}-{1 + number * 28 // rows:02},1" for number in range(rows)))


@pytest.fixture
def loaded(database: Database, files: Files) -> Database:
    """A month is loaded, and its file is an unusual one now."""
    sell(files, MONTH, MANY)
    load_month(database, f"{MONTH}-01")
    sell(files, MONTH, FEW)
    return database


def changed(before: int, after: int) -> str:
    return "; ".join(f"{what} {before} -> {after} against what is published" for what in ("rows", "total"))


CHANGED = changed(MANY, FEW)


def row_count(database: Database) -> int:
    [(count,)] = database.run("select count(*) from sales where date >= '2024-07-01'")
    return int(count)


def month_status(database: Database) -> tuple[Any, ...]:
    [found] = database.run(f"select status, error, anomalies from month_status where file_month = '{MONTH}-01'")
    return found


def load_of(database: Database, run: AirflowRun) -> tuple[Any, ...]:
    """Status, and who decided, of the newest month that a run loaded."""
    [found, *_] = database.run(
        "select status, decided_by from pipeline.loads join pipeline.files using (file_id)"
        f" where table_name = 'sales' and run_id = '{run.run_id}' order by load_id desc"
    )
    return found


def events(run: AirflowRun) -> list[str]:
    """The assets that a run updated."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run.run_id)).all()
        return sorted(str(event.asset.name) for event in found)


def waiting(database: Database) -> AirflowRun:
    """A run that waits for a person."""
    run = AirflowRun(SALES, MONTH)
    assert run.go_on() == "running"
    assert run.states["approve_month"] == "awaiting_input"
    assert month_status(database) == ("pending_approval", CHANGED, CHANGED)
    return run


def test_an_unusual_month_is_published_and_notified_or_asked_about_as_the_setting_and_its_run_say(
    database: Database,
    files: Files,
    posted: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(1, 7):
        sell(files, f"2024-{number:02}", MANY + number)
        load_month(database, f"2024-{number:02}-01")
    few = "rows: 10 (expected: 62.1 to 258.75); total: 10 (expected: 47.14 to 258.75)"

    def begin(rows: int, state: str, **conf: Any) -> AirflowRun:
        posted.clear()
        sell(files, MONTH, rows)
        run = AirflowRun(SALES, MONTH, **conf)
        assert run.go_on() == state
        return run

    # Nothing of the month is published yet. A person is asked about every unusual month with ask.
    assert begin(FEW, "running", on_anomaly="ask").answer("Reject") == "failed"
    assert row_count(database) == 0
    assert [post["event"] for post in posted] == ["pending_approval", "failed"]
    assert f"Rejected by a person: {few}" in posted[-1]["reason"]

    begin(FEW, "success")
    assert row_count(database) == FEW
    assert month_status(database) == ("loaded", None, f"{few} (published by ON_ANOMALY=protect)")
    [post] = posted
    assert (post["event"], post["month"], post["task"]) == ("unusual", MONTH, "approve_month")
    assert post["reason"] == f"The file is unusual: {few}. It is published without a decision (ON_ANOMALY=protect)."

    # Now unusual rows would replace it.
    run = begin(MANY, "running")
    assert row_count(database) == FEW
    many = changed(FEW, MANY)
    assert month_status(database) == ("pending_approval", many, many)
    assert "| 1 | 10 | 100 | 10 | 100 |" in run.question()  # store 1, rows and total
    [post] = posted
    assert post["event"] == "pending_approval"
    assert post["text"].startswith(f"{SALES}, {MONTH}: pending approval\n")
    assert post["reason"].endswith(". Nothing is published until it is approved under Required Actions.")
    assert run.answer("Approve") == "success"
    assert row_count(database) == MANY
    assert month_status(database) == ("loaded", None, f"{many} (published by a person)")
    assert load_of(database, run) == ("published", "a person")

    # Nothing is sent of a usual month.
    begin(MANY, "success")
    assert posted == []

    # The configuration of a run counts more than the setting; a receiver that is away stops nothing.
    monkeypatch.setattr(notifier, "WEBHOOK_PAUSES", ())
    address = notify_webhook_url()
    for setting, mode, rows, receiver, events in (
        ("ask", "warn", FEW, f"https://127.0.0.1:{free_port()}", []),
        ("ask", "warn", MANY, address, ["unusual"]),
        ("warn", "ignore", FEW, address, []),
    ):
        monkeypatch.setenv("ON_ANOMALY", setting)
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", str(receiver))
        run = begin(rows, "success", on_anomaly=mode)
        assert row_count(database) == rows
        assert load_of(database, run) == ("published", f"ON_ANOMALY={mode}")
        assert [post["event"] for post in posted] == events

    capsys.readouterr()
    monkeypatch.setenv("ON_ANOMALY", "hold")
    begin(FEW, "failed")
    assert 'ON_ANOMALY is "hold". Write it as one of: protect, ask, warn, ignore.' in capsys.readouterr().out


def test_customer_files_are_asked_about_together(database: Database, files: Files) -> None:
    def write(clients: int) -> None:
        numbers = range(clients)
        activity = [f"{n},2020-01-01,,1,1" for n in numbers]
        write_customers(files, [f"{n},1,A,x" for n in numbers], activity, [f"{n},1" for n in numbers])

    write(100)
    assert AirflowRun(CUSTOMERS).go_on() == "success"
    write(50)
    run = AirflowRun(CUSTOMERS)
    assert run.go_on() == "running"
    for file in ("customer_profiles", "customer_activity", "labels"):
        assert f"/{file}.csv** (load " in run.question()
    assert run.answer("Approve") == "success"
    assert database.run("select count(*) from labels") == [(50,)]
    assert database.run("select distinct decided_by from data_statistics where is_current") == [("a person",)]


def test_a_load_that_a_person_rejected_stays_rejected_until_the_run_is_cleared(
    loaded: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    run = waiting(loaded)
    assert run.answer("Reject") == "failed"
    sentence = f"Rejected by a person: {CHANGED}. It stays rejected; to stage the file anew, clear the whole run."
    assert month_status(loaded) == ("rejected", sentence, CHANGED)
    for task in ("approve_month", "compare_month", "check_month"):
        capsys.readouterr()
        assert (run.clear(task), run.states[task]) == ("failed", "failed")
        assert sentence in capsys.readouterr().out
        assert month_status(loaded) == ("rejected", sentence, CHANGED)
    assert row_count(loaded) == MANY
    assert run.clear() == "running"
    assert run.answer("Approve") == "success"
    assert row_count(loaded) == FEW


def test_a_load_that_a_check_rejected_is_checked_again_with_the_corrected_stores(
    database: Database, files: Files
) -> None:
    sell(files, MONTH, MANY)
    files.write("stores.csv", csv_text.stores("2,Faro"))
    run = AirflowRun(SALES, MONTH)
    assert run.go_on() == "failed"
    assert run.states["check_month"] == "failed"
    files.write("stores.csv", csv_text.stores("1,Porto"))
    assert run.clear("stage_stores") == "success"
    assert row_count(database) == MANY
    loads = "select count(*) from pipeline.loads join pipeline.files using (file_id) where table_name = 'sales'"
    assert database.run(loads) == [(1,)]


def test_a_load_on_which_nobody_decides_is_failed_and_a_late_answer_is_refused(
    loaded: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    expire = "update pipeline.loads set decide_until = now() - interval '1 second' where status = 'pending_approval'"
    run = waiting(loaded)
    loaded.run(expire)
    status, error, _ = month_status(loaded)
    assert (status, error.startswith("Nobody decided until ")) == ("failed", True)
    assert load_of(loaded, run) == ("pending_approval", None)
    capsys.readouterr()
    assert run.answer("Approve") == "failed"
    assert "Nobody decided until " in capsys.readouterr().out
    assert load_of(loaded, run)[0] == "failed"

    # The runs of these are deleted before anybody answers. The maintenance writes it, or the next load of the file.
    for ends in (lambda: Run(loaded, MAINTENANCE).run("discard_orphans"), lambda: waiting(loaded)):
        deleted = waiting(loaded)
        [(load,)] = loaded.run("select load_id from pipeline.loads where status = 'pending_approval'")
        loaded.run(expire)
        assert month_status(loaded)[0] == "failed"
        assert loaded.run(f"select pipeline.decide_load({load}, true, 'a person')", "pipeline") == [("failed",)]
        ends()
        assert load_of(loaded, deleted)[0] == "failed"
    assert row_count(loaded) == MANY


def test_an_answer_that_a_restarted_server_did_not_record_is_found_by_the_next_try(
    loaded: Database, no_pauses: None
) -> None:
    run = AirflowRun(SALES, MONTH, retries=3)
    assert run.go_on() == "running"
    loaded.cluster.stop()  # when the answer is to be recorded
    run.before["approve_month"] = lambda: run.before.update(approve_month=loaded.cluster.start)
    try:
        assert run.answer("Approve") == "success"
    finally:
        if not loaded.cluster.is_running():
            loaded.cluster.start()
    assert row_count(loaded) == FEW
    assert load_of(loaded, run) == ("published", "a person")


def test_an_answer_holds_until_the_load_is_compared_again(loaded: Database) -> None:
    run = waiting(loaded)
    loaded.run("alter table monthly_sales add constraint nothing check (false) not valid")
    assert run.answer("Approve") == "failed"
    assert run.clear("approve_month") == "failed"
    assert (run.states["approve_month"], run.states["publish_month"]) == ("success", "failed")
    loaded.run("alter table monthly_sales drop constraint nothing")
    assert run.clear("compare_month") == "running"
    assert load_of(loaded, run) == ("pending_approval", None)
    assert run.answer("Approve") == "success"
    assert row_count(loaded) == FEW


def test_a_month_that_is_published_already_sends_its_event_again(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    sell(files, MONTH, MANY)
    run = AirflowRun(SALES, MONTH)
    assert run.go_on() == "success"
    assert run.clear("publish_month") == "success"
    assert run.states["publish_month"] == "success"
    assert "is published already, so nothing is changed" in capsys.readouterr().out
    assert events(run) == sorted(2 * ["stores", "sales", "monthly_sales"])


def test_an_answer_about_a_superseded_load_is_recorded_and_the_task_is_skipped(loaded: Database, files: Files) -> None:
    run = waiting(loaded)
    sell(files, MONTH, MANY + 1)
    load_month(loaded, f"{MONTH}-01")
    assert run.answer("Approve") == "success"
    assert (run.states["approve_month"], run.states["publish_month"]) == ("skipped", "skipped")
    assert events(run) == []
    assert load_of(loaded, run) == ("superseded", "a person")
    assert row_count(loaded) == MANY + 1
    assert month_status(loaded) == ("loaded", None, None)


def test_a_month_is_finished_before_another_begins() -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = AirflowRun(SALES, MONTH)
    with create_session() as session:
        found = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run.run_id)).all()
        weights = {task.task_id: task.priority_weight for task in found}
    assert [weights[task.task_id] for task in dag(SALES).topological_sort()] == [1, 2, 3, 4, 5, 6]
