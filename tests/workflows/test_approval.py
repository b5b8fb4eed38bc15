"""Unusual files through Airflow: published, marked and notified, or held back until a person answers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Database, Files
from psycopg.errors import CheckViolation
from support import csv_text
from support.airflow_runs import AirflowRun
from support.bucket_files import write_customers, write_month
from support.receivers import mail_server, webhook
from support.steps import CUSTOMERS, MAINTENANCE, SALES, Run, dag, load_customers, load_month

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
    return "; ".join(f"{what}: {after} (published: {before})" for what in ("rows", "total"))


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


def events(run: AirflowRun) -> list[tuple[str, dict[str, Any]]]:
    """The assets that a run updated, and what their events say."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run.run_id)).all()
        return sorted(((event.asset.name, dict(event.extra)) for event in found), key=lambda event: event[0])


def waiting(database: Database) -> AirflowRun:
    """A run that waits for a person."""
    run = AirflowRun(SALES, MONTH)
    assert run.go_on() == "running"
    assert run.states["approve_month"] == "awaiting_input"
    assert month_status(database) == ("pending_approval", CHANGED, CHANGED)
    return run


def test_a_month_that_another_run_replaces_after_its_comparison_is_not_published_until_it_is_compared_again(
    database: Database, files: Files
) -> None:
    staging, few = ("stage_sales", "stage_stores", "check_month"), Run(database, SALES, f"{MONTH}-01")
    many = Run(database, SALES, f"{MONTH}-01")
    for run, rows in ((many, MANY), (few, FEW)):
        sell(files, MONTH, rows)
        run.run(*staging)
    few.run("compare_month")
    many.run("compare_month", "publish_month")
    with pytest.raises(CheckViolation, match="load 1 was published after load 3 had been compared"):
        few.run("publish_month")
    assert row_count(database) == MANY
    few.run("check_month", "compare_month")
    assert database.run("select anomalies from pipeline.loads where load_id = 3") == [(CHANGED,)]
    few.run("publish_month")
    assert row_count(database) == FEW


def test_an_unusual_month_is_published_and_notified_or_asked_about_as_the_setting_and_its_run_say(
    database: Database, files: Files, posted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 7):
        sell(files, f"2024-{number:02}", MANY + number)
        load_month(database, f"2024-{number:02}-01")
    few = "rows: 10 (expected: 53 to 310); total: 10 (expected: 38.73 to 310.50)"

    def begin(rows: int, state: str, **conf: Any) -> AirflowRun:
        posted.clear()
        sell(files, MONTH, rows)
        run = AirflowRun(SALES, MONTH, **conf)
        assert run.go_on() == state
        return run

    # Nothing of the month is published yet. A person is asked about every unusual month with ask.
    monkeypatch.setenv("ON_ANOMALY", "ask")
    assert begin(FEW, "running").answer("Reject") == "failed"
    assert row_count(database) == 0
    assert [post["event"] for post in posted] == ["pending_approval", "failed"]
    assert f"Rejected by a person: {few}" in posted[-1]["reason"]

    monkeypatch.delenv("ON_ANOMALY")
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
    assert "| 1 | Porto | 10 | 100 | 900 % | 10 | 100 | 900 % |" in run.question()  # store 1, rows and total
    [post] = posted
    assert post["event"] == "pending_approval"
    assert post["text"].startswith(f"{SALES}, {MONTH}: an unusual file waits for a decision\n")
    assert post["reason"].endswith(". Nothing is published until it is approved under Required Actions.")
    assert run.answer("Approve") == "success"
    assert row_count(database) == MANY
    assert month_status(database) == ("loaded", None, f"{many} (published by a person)")
    assert load_of(database, run) == ("published", "a person")

    # The configuration of a run counts more than the setting.
    for setting, mode, rows, events in (("ask", "warn", FEW, ["unusual"]), ("warn", "ignore", MANY, [])):
        monkeypatch.setenv("ON_ANOMALY", setting)
        run = begin(rows, "success", on_anomaly=mode)
        assert row_count(database) == rows
        assert load_of(database, run) == ("published", f"ON_ANOMALY={mode}")
        assert [post["event"] for post in posted] == events


def test_customer_files_are_asked_about_together(database: Database, files: Files) -> None:
    def write(clients: int) -> None:
        numbers = range(clients)
        activity = [f"{n},2020-01-01,,1,1" for n in numbers]
        write_customers(files, [f"{n},1,A,x" for n in numbers], activity, [f"{n},1" for n in numbers])

    write(200)
    load_customers(database)
    write(150)
    run = AirflowRun(CUSTOMERS)
    assert run.go_on() == "running"
    for file in ("customer_profiles", "customer_activity", "labels"):
        assert f"/{file}.csv** (load " in run.question()
    assert run.answer("Approve") == "success"
    assert database.run("select count(*) from labels") == [(150,)]
    assert database.run("select distinct decided_by from data_statistics where is_current") == [("a person",)]

    # One of the files has other bytes: the profiles have fewer labels than before.
    files.write("labels.csv", csv_text.labels(*(f"{n},1" for n in range(50))))
    run = AirflowRun(CUSTOMERS)
    assert run.go_on() == "running"
    assert "share of profiles with a label" in run.question()


def test_a_question_is_about_the_load_that_would_be_published_and_an_answer_to_another_one_decides_nothing(
    loaded: Database, files: Files, no_pauses: None
) -> None:
    loaded.run("update stores set location = E'<b>|東\\n\\u202ex'")
    run = waiting(loaded)
    by_store = "| 1 | _b__東__x | 100 | {0} | -{1} % | 100 | {0} | -{1} % |"  # store 1: rows and totals
    assert by_store.format(FEW, 90) in run.question()
    sell(files, MONTH, 2 * FEW)
    assert run.clear() == "running"
    assert by_store.format(2 * FEW, 80) in run.question()
    assert by_store.format(FEW, 90) not in run.question()

    # The file is replaced again, and all but the task that waits are cleared.
    sell(files, MONTH, 3 * FEW)
    before = ("stage_sales", "stage_stores", "check_month", "compare_month")
    assert run.clear(*before, downstream=False) == "running"
    assert by_store.format(2 * FEW, 80) in run.question()
    assert run.answer("Approve") == "running"
    assert load_of(loaded, run) == ("pending_approval", None)
    assert row_count(loaded) == MANY
    assert by_store.format(3 * FEW, 70) in run.question()
    assert run.answer("Approve") == "success"
    assert row_count(loaded) == 3 * FEW


def test_an_approved_file_is_not_asked_about_until_it_is_compared_again_or_other_bytes_are_published(
    loaded: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_that_asks() -> None:
        Run(loaded, SALES, f"{MONTH}-01", asks=True).run()  # fails if a person is asked

    # Approved, and not published.
    run = waiting(loaded)
    loaded.run("alter table monthly_sales add constraint nothing check (false) not valid")
    assert run.answer("Approve") == "failed"
    assert run.clear("approve_month") == "failed"
    assert (run.states["approve_month"], run.states["publish_month"]) == ("success", "failed")
    assert run.clear("compare_month") == "running"
    assert load_of(loaded, run) == ("pending_approval", None)
    assert run.answer("Approve") == "failed"
    loaded.run("alter table monthly_sales drop constraint nothing")
    # The run begins again.
    capsys.readouterr()
    assert run.clear() == "success"
    assert f"{CHANGED}. Nobody is asked: a person has decided on these bytes." in capsys.readouterr().out
    approved = ("loaded", None, f"{CHANGED} (published by a person)")
    assert (row_count(loaded), month_status(loaded)) == (FEW, approved)

    # Published, with an answer or without.
    loaded.run("delete from sales where date >= '2024-07-01'")
    run_that_asks()
    assert row_count(loaded) == FEW
    sell(files, MONTH, MANY)
    load_month(loaded, f"{MONTH}-01")
    sell(files, MONTH, FEW)  # they would replace others now, and are rejected this time
    assert waiting(loaded).answer("Reject") == "failed"
    sell(files, MONTH, MANY)
    loaded.run("delete from sales where date >= '2024-07-01'")
    run_that_asks()
    assert row_count(loaded) == MANY


def test_each_receiver_gets_one_message_although_the_other_fails_and_the_task_is_tried_again(
    loaded: Database, posted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "WEBHOOK_PAUSES", ())
    monkeypatch.setenv("NOTIFY_EMAIL", "operator@here")
    address = notify_webhook_url()
    monkeypatch.setenv("NOTIFY_WEBHOOK_URL", f"https://127.0.0.1:{free_port()}")
    with mail_server() as mail:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mail.connection)
        run = waiting(loaded)
        assert run.clear("approve_month") == "running"
        assert (len(posted), len(mail.mails)) == (0, 1)
    monkeypatch.setenv("NOTIFY_WEBHOOK_URL", str(address))
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", f"smtp://127.0.0.1:{free_port()}/?disable_ssl=true&timeout=1")
    assert run.clear() == "running"
    assert run.clear("approve_month") == "running"
    assert [post["event"] for post in posted] == ["pending_approval"]
    assert run.answer("Approve") == "success"


def test_a_rejected_load_stays_rejected_until_the_run_is_cleared_and_an_answer_about_a_superseded_one_is_recorded(
    loaded: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    run = waiting(loaded)
    assert run.answer("Reject") == "failed"
    sentence = f"Rejected by a person: {CHANGED}. It stays rejected; to stage the file again, clear the whole run."
    assert month_status(loaded) == ("rejected", sentence, CHANGED)
    for task in ("approve_month", "compare_month", "check_month"):
        capsys.readouterr()
        assert (run.clear(task), run.states[task]) == ("failed", "failed")
        assert sentence in capsys.readouterr().out
        assert month_status(loaded) == ("rejected", sentence, CHANGED)
    assert row_count(loaded) == MANY
    assert run.clear() == "running"
    sell(files, MONTH, MANY + 1)
    load_month(loaded, f"{MONTH}-01")
    assert run.answer("Approve") == "success"
    assert (run.states["approve_month"], run.states["publish_month"]) == ("skipped", "skipped")
    assert events(run) == []
    assert load_of(loaded, run) == ("superseded", "a person")
    assert row_count(loaded) == MANY + 1
    assert month_status(loaded) == ("loaded", None, None)


def test_a_load_that_a_check_rejected_is_published_with_the_corrected_stores_and_its_event_is_sent_again(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    sell(files, MONTH, MANY)
    files.write("stores.csv", csv_text.stores("2,Faro"))
    run = AirflowRun(SALES, MONTH)
    assert run.go_on() == "failed"
    assert run.states["check_month"] == "failed"
    files.write("stores.csv", csv_text.stores("1,Porto"))
    assert run.clear("stage_stores") == "success"
    assert row_count(database) == MANY
    [(source_url, sha256)] = database.run("select source_url, sha256 from pipeline.loads where row_count = 100")

    assert run.clear("publish_month") == "success"
    assert run.states["publish_month"] == "success"
    assert "is published already, so nothing is changed" in capsys.readouterr().out
    sent = events(run)
    assert [name for name, _ in sent] == sorted(2 * ["stores", "sales", "monthly_sales"])
    about = {"file": source_url, "month": MONTH, "rows": MANY, "total": str(MANY), "version": sha256}
    assert [extra for name, extra in sent if name != "stores"] == 4 * [about]


def test_a_load_on_which_nobody_decides_is_failed_and_a_late_answer_is_rejected(
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

    # The run of the first is marked as failed. The second is decided by the command of the page.
    ended = waiting(loaded)
    ended.fail()
    active = waiting(loaded)
    assert AirflowRun(MAINTENANCE).go_on() == "success"
    assert load_of(loaded, ended) == ("failed", None)
    assert load_of(loaded, active) == ("pending_approval", None)
    page = (ROOT / "docs/wrong_month.md").read_text()
    [command] = re.findall(r"^  (select load_id, [^\"]*decide_load.*?)\"$", page, re.M | re.S)
    loaded.run(command.replace("RUN", active.run_id))
    assert load_of(loaded, active) == ("rejected", "admin")

    # The runs of these are deleted before anybody answers. The next load of the file writes it, or the maintenance.
    deleted = [waiting(loaded)]
    loaded.run(expire)
    deleted.append(waiting(loaded))
    assert load_of(loaded, deleted[0])[0] == "failed"
    [(load,)] = loaded.run("select load_id from pipeline.loads where status = 'pending_approval'")
    loaded.run(expire)
    assert month_status(loaded)[0] == "failed"
    assert loaded.run(f"select pipeline.decide_load({load}, true, 'a person')", "pipeline") == [("failed",)]
    Run(loaded, MAINTENANCE).run("discard_orphans")
    assert load_of(loaded, deleted[1])[0] == "failed"
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


def test_a_month_is_finished_before_another_begins_and_months_that_wait_for_a_person_stop_no_other() -> None:
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    waiting, new = ([AirflowRun(SALES, f"{year}-{month:02}").run_id for month in range(1, 7)] for year in (2024, 2025))
    with create_session() as session:
        for run in session.scalars(select(DagRun).where(DagRun.run_id.in_(waiting + new))).all():
            states = {"approve_month": "awaiting_input"} if run.run_id in waiting else {"stage_sales": "scheduled"}
            run.state = "running" if run.run_id in waiting else "queued"
            weights = {instance.task_id: instance.priority_weight for instance in run.task_instances}
            assert [weights[task.task_id] for task in dag(SALES).topological_sort()] == [1, 2, 3, 4, 5, 6]
            for instance in run.task_instances:
                instance.state = states.get(instance.task_id)
        session.commit()
        scheduler = SchedulerJobRunner(Job())  # type: ignore[no-untyped-call]
        scheduler._start_queued_dagruns(session)
        session.flush()
        assert set(session.scalars(select(DagRun.state).where(DagRun.run_id.in_(new)))) == {"running"}
        # Of the new months four are loaded at once.
        queued = scheduler._executable_task_instances_to_queued(100, session)
        assert [task.task_id for task in queued if task.run_id in new] == ["stage_sales"] * 4
        for run in session.scalars(select(DagRun).where(DagRun.run_id.in_(waiting + new))).all():
            session.delete(run)
