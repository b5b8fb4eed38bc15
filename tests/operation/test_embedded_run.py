"""The whole system as `make up` starts it, with a real scheduler: secrets stay secret, a killed task is tried again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest
import requests
from support.faulty_bucket import redirect, stall
from support.foreign_code import plant_shadows, remove_shadows, shadows_ran
from support.steps import MAINTENANCE, SQL
from support.system import (
    SALES_DAG,
    FaultySystem,
    clear,
    end_of,
    lend_packages,
    months,
    newest_month,
    staging_sessions,
    status,
    task_instances,
    wait_for,
)

from embedded import processes
from embedded.api import Api
from embedded.postgres import free_port
from embedded.tree import copy_tree


def test_a_full_run_loads_both_months(system: FaultySystem) -> None:
    with system.connect() as connection:
        assert connection.execute("select count(*), sum(value) from sales").fetchall() == [(2_000, 1_000)]
        assert connection.execute("select count(*) from feature_store").fetchall() == [(1,)]
    assert "sales 2 of 2 months" in system.output


def test_the_dag_of_another_team_runs_when_monthly_sales_is_published(system: FaultySystem) -> None:
    api = system.api()
    wait_for(lambda: {run["state"] for run in api.runs("report")} == {"success"})
    reported = []
    for run in api.runs("report"):
        log = get(system, f"dags/report/dagRuns/{quote(run['dag_run_id'])}/taskInstances/report/logs/1")["content"]
        reported += [line["event"] for line in log if line.get("event", "").startswith("scheduled__")]
    published = [run["dag_run_id"] for run in api.runs(SALES_DAG)]
    assert set(reported) <= set(published)
    assert reported


def test_status_shows_the_months_of_the_run(system: FaultySystem) -> None:
    exit_status, printed = status(system)
    assert exit_status == 0, printed
    assert "2 months: 2 loaded; 2,000 rows" in printed


def test_the_ui_shows_the_sql_of_each_task_word_for_word_and_its_variables_beside_it(system: FaultySystem) -> None:
    with system.connect("airflow") as connection:
        rendered = connection.execute("""
            select rendered_fields -> 'sql', rendered_fields -> 'parameters'
            from rendered_task_instance_fields
            where rendered_fields ->> 'sql' is not null
        """).fetchall()
    files = {file.read_text().rstrip("\n"): file for file in SQL.rglob("*.sql")}
    shown = set()
    for sql, parameters in rendered:
        for text in [sql] if isinstance(sql, str) else sql:
            assert set(re.findall(r"%\((\w+)\)s", text)) <= set(parameters or {})
            shown.add(text.rstrip("\n"))
    assert {file for text, file in files.items() if text not in shown} <= set(SQL.glob("maintenance/*.sql"))
    # Besides the files there are the settings and the commit of a rebuild.
    assert {text.split()[0] for text in shown - files.keys()} == {"set", "commit"}
    months_shown = {parameters["sale_month"] for _, parameters in rendered if "sale_month" in (parameters or {})}
    assert months_shown == {str(month) for month in months(2)}


def test_the_ui_shows_the_month_in_the_runs_name_and_a_link_from_each_task_to_its_sql(system: FaultySystem) -> None:
    runs = {run["dag_run_id"] for run in system.api().runs(SALES_DAG)}
    assert runs == {f"scheduled__{month:%Y-%m}" for month in months(2)}

    [newest] = months(1)
    path = f"dags/{SALES_DAG}/runs/scheduled__{newest:%Y-%m}/tasks"
    for task in ("check_month", "publish_month"):
        links = get(system, f"{task_path(system, task)}/links")
        assert links["extra_links"] == {"SQL": f"/{path}/{task}/rendered_templates"}


SIGNATURE = "signature-of-a-redirect"


def test_no_secret_is_in_a_log_a_row_of_airflow_or_a_process_argument(system: FaultySystem) -> None:
    # Failures speak more than successes: a redirect that is rejected, and one whose host does not answer.
    api, path = system.api(), f"sales/{months(1)[0]}/sales.csv"
    for target, end in (("http://127.0.0.1:1", "failed"), ("https://127.0.0.1:1", "success")):
        system.answers[path] = [redirect(f"{target}/x?X-Amz-Signature={SIGNATURE}")]
        run = clear_newest_month(system)
        wait_for(lambda: not system.answers[path])
        assert end_of(api, run) == end

    state = system.state
    hidden = [
        *system.passwords.values(),
        *(state[name] for name in ("airflow_password", "jwt_secret", "api_secret", "fernet_key")),
    ]
    assert all(hidden)

    def found_in(text: str) -> list[str]:
        return [secret for secret in hidden if secret in text]

    logs = [file for file in system.run.rglob("*") if file.is_file() and "logs" in file.parts]
    logs.append(Path(state["postgres_home"]) / "postgres.log")
    assert len(logs) > 15
    for file in logs:
        assert found_in(file.read_text(errors="replace")) == [], file

    with system.connect("airflow") as connection:
        tables = [
            name
            for (name,) in connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        ]
        assert {"task_instance", "xcom", "rendered_task_instance_fields", "log", "dag_run"} <= set(tables)
        for table in tables:
            for (row,) in connection.execute(f'select t::text from public."{table}" as t').fetchall():
                assert found_in(row) == [], table
    with system.connect() as connection:
        for (row,) in connection.execute("select t::text from pipeline.loads as t").fetchall():
            assert found_in(row) == []

    running = processes.of_run(system.run)
    assert len(running) > 3
    for process in running:
        assert found_in(" ".join(process.cmdline())) == [], process.pid
    assert found_in(system.output) == []


def test_no_service_and_no_command_runs_code_of_mle_user(system: FaultySystem) -> None:
    plant_shadows(system.address)
    try:
        for command in ("up", "up", "status"):
            system.make(command)
        assert end_of(system.api(), clear(system, newest_month(system))) == "success"
        assert not shadows_ran(system.address)
    finally:
        remove_shadows(system.address)


@pytest.mark.parametrize("database", ["airflow", "postgres", "template1"])
@pytest.mark.parametrize("login", ["ds_user", "mle_user"])
def test_readers_connect_to_no_database_but_their_own(database: str, login: str, system: FaultySystem) -> None:
    """There, nothing is taken from the privileges of everybody, such as those to make large objects."""
    with pytest.raises(psycopg.OperationalError, match=f'permission denied for database "{database}"'):
        psycopg.connect(system.address(login, database))


def test_connections_are_reserved_for_airflow_and_the_tasks(system: FaultySystem) -> None:
    with system.connect() as connection:
        assert connection.execute("show reserved_connections").fetchall() == [("40",)]
        assert connection.execute("""
            select member::regrole::text from pg_auth_members
            where roleid = 'pg_use_reserved_connections'::regrole order by 1
        """).fetchall() == [("airflow",), ("pipeline",)]


def test_a_task_that_is_killed_in_the_middle_of_its_copy_is_tried_again_and_ends_right(system: FaultySystem) -> None:
    # Of the month that no other test clears: Airflow doubles the pause before each retry, also over clearings.
    month = months(2)[0]
    path = f"sales/{month}/sales.csv"
    rows = "".join(f"{n},2,{month},1\n" for n in range(50_000))
    (system.bucket_folder / path).write_text("idx,value,date,store_idx\n" + rows)
    released = threading.Event()
    system.answers[path] = [stall(600_000, released)]
    api = system.api()
    run = clear(system, f"scheduled__{month:%Y-%m}")

    with system.connect() as connection:
        killed = kill_the_task_that_copies(system, connection, run)
        released.set()
        wait_for(lambda: not psutil.pid_exists(killed))
        wait_for(lambda: not staging_sessions(connection))
        query = "select status, error from month_status where sale_month = %s"
        assert connection.execute(query, [month]).fetchall() == [
            ("failed", "The process that loaded the file was killed.")
        ]
        assert connection.execute("select count(*), sum(value) from sales").fetchall() == [(2_000, 1_000)]

        assert end_of(api, run) == "success"
        found = connection.execute("select count(*), sum(value) from sales where date = %s", [month]).fetchall()
        assert found == [(50_000, 100_000)]
        left = (
            "select load_id from pipeline.loads join pipeline.files using (file_id)"
            " where file_month = %s and to_regclass(staged_table) is not null"
        )
        assert connection.execute(left, [month]).fetchall() == []


def test_the_first_page_of_the_ui_reports_every_service_as_healthy(system: FaultySystem) -> None:
    health = get(system, "monitor/health")
    assert {part: found["status"] for part, found in health.items()} == dict.fromkeys(
        ("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"
    )


def test_the_viewer_sees_everything_and_changes_nothing(system: FaultySystem) -> None:
    viewer, run = Api(system.url, "viewer", system.passwords["AIRFLOW_VIEWER_PASSWORD"]), newest_month(system)
    api = f"{viewer.url}/api/v2"
    sales = f"{api}/dags/{SALES_DAG}"
    task = f"{sales}/dagRuns/{run}/taskInstances/stage_sales"
    newest_try = viewer.session.get(task).json()["try_number"]  # other tests kill the task, and clear its run
    for seen in (sales, f"{task}/logs/{newest_try}", f"{task}/links", f"{api}/dagSources/{SALES_DAG}", f"{api}/assets"):
        assert viewer.session.get(seen).ok, seen
    month = {"from_date": f"{months(1)[0]}T00:00:00Z", "to_date": f"{months(1)[0]}T00:00:00Z"}
    for denied in (
        viewer.session.post(f"{sales}/dagRuns/{run}/clear", json={"dry_run": False}),
        viewer.session.post(f"{sales}/dagRuns", json={"logical_date": datetime.now(UTC).isoformat()}),
        viewer.session.patch(sales, json={"is_paused": True}),
        viewer.session.post(f"{api}/backfills", json={"dag_id": SALES_DAG, **month}),
        viewer.session.patch(f"{task}/-1/hitlDetails", json={"chosen_options": ["Approve"], "params_input": {}}),
        viewer.session.get(f"{api}/connections"),
    ):
        assert denied.status_code == 403, denied.url


def test_the_report_is_in_the_menu_and_only_for_those_who_are_logged_in(system: FaultySystem) -> None:
    viewer = Api(system.url, "viewer", system.passwords["AIRFLOW_VIEWER_PASSWORD"])
    assert requests.get(f"{system.url}/report/", timeout=60).status_code == 401
    assert "make report writes one" in viewer.session.get(f"{system.url}/report/").text
    page = system.folder / "report.html"
    page.write_text("<h1>Company data</h1>")
    shown = viewer.session.get(f"{system.url}/report/")
    page.unlink()
    assert (shown.text, shown.headers["content-type"]) == ("<h1>Company data</h1>", "text/html; charset=utf-8")
    views = [view for plugin in get(system, "plugins")["plugins"] for view in plugin["external_views"]]
    assert [(view["name"], view["href"]) for view in views] == [("Report", "report/")]


def test_a_trigger_loads_the_last_whole_month_again(system: FaultySystem) -> None:
    api, [newest] = system.api(), months(1)
    form = {"logical_date": datetime.now(UTC).isoformat()}
    made = api.session.post(f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns", json=form)
    assert made.ok, made.text
    run = made.json()["dag_run_id"]
    assert run.startswith(f"manual__{newest:%Y-%m}__")
    assert end_of(api, run) == "success"
    assert set(task_states(system, run).values()) == {"success"}
    # The tests below look for the newest run of the month.
    assert api.session.delete(f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns/{run}").ok


CHANGED = "rows 1000 -> 500 against what is published; total 500 -> 250 against what is published"


def test_an_unusual_month_waits_for_a_person_whose_answer_counts_although_the_task_is_killed(
    system: FaultySystem,
) -> None:
    api, [newest] = system.api(), months(1)
    file = system.bucket_folder / f"sales/{newest}/sales.csv"
    good = file.read_text()
    file.write_text("".join(good.splitlines(keepends=True)[:501]))
    runs = f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns"

    def trigger(**configuration: str) -> str:
        made = api.session.post(runs, json={"logical_date": datetime.now(UTC).isoformat(), "conf": configuration})
        assert made.ok, made.text
        return str(made.json()["dag_run_id"])

    def answer(run: str, option: str) -> None:
        wait_for(lambda: task_states(system, run)["approve_month"] == "awaiting_input")
        place = f"{runs}/{quote(run)}/taskInstances/approve_month/-1/hitlDetails"
        question = api.session.get(place).json()["body"]
        assert "rows 1000 -> 500 against what is published" in question
        assert "| 1 | 1000 | 500 | 500.0 | 250.0 |" in question  # store 1, rows and total
        newest_status = ledger("select status, error from month_status order by sale_month desc limit 1")
        assert newest_status == [("pending_approval", CHANGED)]

        # Airflow 3.3.2 takes an answer for a failure if its scheduler has not yet heard that the task put the question.
        heard = f"TaskInstance Finished: dag_id={SALES_DAG}, task_id=approve_month, run_id={run}"
        wait_for(lambda: heard in (system.run / "logs/scheduler.log").read_text())
        answered = api.session.patch(place, json={"chosen_options": [option], "params_input": {}})
        assert answered.ok, answered.text

    def ledger(query: str) -> Any:
        with system.connect() as connection:
            return connection.execute(query).fetchall()

    of_month = f"select count(*) from sales where date >= '{newest}'"
    assert "| 1 | 1000 | 500 | 500.0 | 250.0 |" in system.make("preview", f"MONTH={newest:%Y-%m}")
    assert ledger(of_month) == [(1_000,)]
    rejected = max(run["dag_run_id"] for run in api.runs(SALES_DAG) if run["run_type"] == "manual")
    answer(rejected, "Reject")
    assert end_of(api, rejected) == "failed"
    assert ledger(of_month) == [(1_000,)]
    wait_for(lambda: [post for post in system.posted if (post["event"], post["run"]) == ("failed", rejected)])
    assert [post for post in system.posted if (post["event"], post["run"]) == ("pending_approval", rejected)]

    approved = trigger(on_anomaly="ask")
    wait_for(lambda: task_states(system, approved)["approve_month"] == "awaiting_input")
    with system.connect() as connection, connection.transaction():
        connection.execute("select from pipeline.loads where status = 'pending_approval' for update")
        answer(approved, "Approve")
        kill_the_task_that_decides(system, approved)
    assert end_of(api, approved) == "success"
    assert ledger(of_month) == [(500,)]
    decided = "select distinct decided_by, anomalies from data_statistics where is_current and decided_by = 'airflow'"
    assert ledger(decided) == [("airflow", CHANGED)]

    file.write_text(good)
    restored = trigger()
    assert end_of(api, restored) == "success"
    assert ledger(of_month) == [(1_000,)]
    # The tests below look for the newest run of the month.
    for run in (rejected, approved, restored):
        assert api.session.delete(f"{runs}/{quote(run)}").ok


def test_a_month_that_fails_in_a_backfill_is_notified_and_again_after_its_deadline(system: FaultySystem) -> None:
    [newest] = months(1)
    file = system.bucket_folder / f"sales/{newest}/sales.csv"
    good = file.read_text()
    file.write_text("idx,value,date,store_idx\n1,1,2000-01-01,1\n")
    # A new run, because one that was in time before has no deadline anymore.
    api = system.api()
    before = newest_month(system)
    end_of(api, before)
    gone = api.session.delete(f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns/{before}")
    assert gone.ok, gone.text
    form = {"dag_id": SALES_DAG, "from_date": f"{newest}T00:00:00Z", "to_date": f"{newest}T00:00:00Z"}
    made = api.session.post(f"{api.url}/api/v2/backfills", json=form)
    assert made.ok, made.text
    run = newest_month(system)
    assert run.startswith("backfill__")

    def sent(event: str) -> list[dict[str, Any]]:
        return [post for post in system.posted if (post["event"], post["run"]) == (event, run)]

    wait_for(lambda: sent("failed"))
    [post] = sent("failed")
    assert (post["month"], post["task"]) == (f"{newest:%Y-%m}", "stage_sales")
    assert "the date is in the month of the file" in post["reason"]
    assert post["link"].startswith(f"{api.url}/dags/{SALES_DAG}/runs/{quote(run)}/tasks/stage_sales")
    wait_for(lambda: sent("overdue"))
    [post] = sent("overdue")
    assert post["link"] == f"{api.url}/dags/{SALES_DAG}/runs/{quote(run)}"
    wait_for(lambda: len(system.mail.mails) == len(system.posted))
    subjects = {str(mail["Subject"]) for mail in system.mail.mails}
    assert {f"[company data] {post['text'].splitlines()[0]}" for post in system.posted} == subjects

    file.write_text(good)
    clear_newest_month(system)
    assert end_of(api, run) == "success"
    assert len(sent("failed")) == 1


def test_a_lost_event_leaves_a_stale_feature_store_which_the_daily_run_builds(system: FaultySystem) -> None:
    api = system.api()
    pause(system, "feature_store", True)
    assert api.session.post(f"{api.url}/api/v2/dags/customer_data_load/dagRuns", json={"logical_date": None}).ok
    wait_for(lambda: stale(system))
    exit_status, shown = status(system)
    assert (exit_status, "stale" in shown) == (1, True)

    pause(system, "feature_store", False)
    fall_due_yesterday(system, "feature_store")
    wait_for(lambda: not stale(system))
    assert status(system)[0] == 0

    # Of yesterday's and today's run the later one finds nothing to do.
    def skipped() -> bool:
        runs = [run["dag_run_id"] for run in api.runs("feature_store") if run["dag_run_id"].startswith("scheduled__")]
        tasks = [get(system, f"dags/feature_store/dagRuns/{run}/taskInstances")["task_instances"] for run in runs]
        return any({task["state"] for task in each} == {"skipped"} for each in tasks)

    wait_for(skipped)


def stale(system: FaultySystem) -> list[tuple[str]]:
    with system.connect() as connection:
        found: list[tuple[str]] = connection.execute(
            "select table_name from data_freshness where status = 'stale'"
        ).fetchall()
        return found


def pause(system: FaultySystem, dag: str, is_paused: bool) -> None:
    api = system.api()
    assert api.session.patch(f"{api.url}/api/v2/dags/{dag}", json={"is_paused": is_paused}).ok


def fall_due_yesterday(system: FaultySystem, dag: str) -> None:
    """Let the scheduler find that the run of yesterday's midnight has not been made."""
    with system.connect("airflow") as connection:
        connection.execute(
            """
            update dag
            set
                (next_dagrun, next_dagrun_data_interval_start, next_dagrun_data_interval_end, next_dagrun_create_after)
                = (select midnight, midnight, midnight, midnight)
            from (select date_trunc('day', now(), 'UTC') - interval '1 day' as midnight) as yesterday
            where dag_id = %s
            """,
            [dag],
        )


def test_make_restore_brings_a_backup_back_in_another_folder_and_keeps_the_data_that_was_there(
    system: FaultySystem, tmp_path: Path
) -> None:
    def make(folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            ["/usr/bin/env", "make", *arguments],
            cwd=folder,
            env={**system.environment, "OPERATIONAL_DB_PORT": str(free_port())},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    months_loaded = "select sale_month, value from monthly_sales order by 1"
    with system.connect() as connection:
        expected = connection.execute(months_loaded).fetchall()
    assert "verified" in make(system.folder, "backup", f"BACKUP={tmp_path / 'the backup'}")

    other = tmp_path / "other"
    copy_tree(other)
    lend_packages(other)
    restored = FaultySystem(other, {}, "", system.bucket_folder, {}, {}, [], system.mail)
    try:
        make(other, "restore", f"BACKUP={tmp_path / 'the backup'}")
        # The newest backup in backups/, without BACKUP.
        make(other, "backup")
        with restored.connect() as connection:
            assert connection.execute(months_loaded).fetchall() == expected
            connection.execute("drop table public.monthly_sales cascade")
        assert "The data that was here before is in" in make(other, "restore")
        with restored.connect() as connection:
            assert connection.execute(months_loaded).fetchall() == expected
        # Airflow's own database lets Airflow in, with the keys of the backup.
        with psycopg.connect(restored.address("airflow", "airflow")) as airflow:
            assert airflow.execute("select count(*) > 0 from dag_run").fetchone() == (True,)
        assert restored.state["fernet_key"] == system.state["fernet_key"]
    finally:
        make(other, "clean")


def test_the_maintenance_cleans_up_and_reports_what_it_did(system: FaultySystem) -> None:
    api = system.api()
    runs = f"{api.url}/api/v2/dags/{MAINTENANCE}/dagRuns"
    made = api.session.post(runs, json={"logical_date": None})
    assert made.ok, made.text
    run = made.json()["dag_run_id"]
    end_of(api, run, MAINTENANCE)
    assert api.failures(MAINTENANCE, run) == []
    report = get(system, f"dags/{MAINTENANCE}/dagRuns/{run}/taskInstances/report/xcomEntries/return_value")["value"]
    logs, staging, compared, sales = report.splitlines()
    assert re.fullmatch(r"logs: deleted 0 files; \d+ are left, \d+ MB", logs)
    assert re.fullmatch(r"\d+ staged tables are left, .*; the ledger has \d+ loads", staging)
    assert compared == "6 published files were compared with the tables; 0 differ"
    assert re.fullmatch(r"statistics of sales: 2 months, \d+ rows", sales)


def test_records_of_airflow_are_cleaned_outside_of_its_tasks_and_a_table_that_is_not_fails_it(
    system: FaultySystem,
) -> None:
    def clean(user: str, days: int) -> subprocess.CompletedProcess[str]:
        address = system.address(user, "airflow", "postgresql+psycopg2") if user == "airflow" else cleaner
        return subprocess.run(
            [sys.executable, "-m", "services.airflow_db_clean", f"--days={days}"],
            cwd=system.folder,
            env={**os.environ, "AIRFLOW_HOME": str(system.run), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address},
            capture_output=True,
            text=True,
            check=False,
        )

    cleaner = f"postgresql+psycopg2://cleaner:cleaner@127.0.0.1:{system.state['postgres_port']}/airflow"
    with system.connect("airflow") as connection:
        connection.execute("create role cleaner login password 'cleaner'")
        connection.execute("grant connect on database airflow to cleaner")
        connection.execute("grant select on all tables in schema public to cleaner")
        before = connection.execute("select count(*) from task_instance").fetchall()
        failed = clean("cleaner", -1)
        assert failed.returncode == 1
        assert "did not clean every table" in failed.stderr
        assert "errors on the following tables" in failed.stderr
        assert connection.execute("select count(*) from task_instance").fetchall() == before
        connection.execute("drop owned by cleaner")
        connection.execute("drop role cleaner")

        connection.execute("insert into log (dttm, event) values (now() - interval '401 days', 'old')")
        connection.execute("insert into log (dttm, event) values (now() - interval '399 days', 'kept')")
        done = clean("airflow", 400)
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith("Airflow's database: deleted 1 of log")
        left = "delete from log where event in ('old', 'kept') returning event"
        assert connection.execute(left).fetchall() == [("kept",)]
        assert connection.execute("select count(*) from task_instance").fetchall() == before


def test_a_task_sees_no_password_in_any_environment_and_its_log_is_shown_while_it_runs(system: FaultySystem) -> None:
    api, runs = system.api(), "dags/looking/dagRuns"
    wait_for(lambda: api.session.get(f"{api.url}/api/v2/dags/looking").ok)
    made = api.session.post(f"{api.url}/api/v2/{runs}", json={"logical_date": None})
    assert made.ok, made.text
    run = made.json()["dag_run_id"]
    wait_for((system.folder / "seen.json").exists)
    try:
        log = f"{runs}/{quote(run)}/taskInstances/look/logs/1"
        wait_for(lambda: "the task has looked" in str(get(system, log)["content"]))
        [task] = task_instances(system, run, "looking")
        assert task["state"] == "running"
    finally:
        (system.folder / "looked").touch()
    assert end_of(api, run, "looking") == "success"
    assert "read served logs" not in (system.run / "logs/api-server.log").read_text()

    seen = (system.folder / "seen.json").read_text()
    environments = json.loads(seen)
    assert environments["its own"]["AIRFLOW_CONN_OPERATIONAL_DB"].startswith("postgresql://pipeline@127.0.0.1:")
    assert len(environments) > 3  # its own, as it began, and its parents'
    state = system.state
    hidden = {name: system.passwords[name] for name in state["passwords"]}
    hidden |= {name: state[name] for name in ("airflow_password", "jwt_secret", "api_secret", "fernet_key")}
    for whose, environment in environments.items():
        for name, secret in hidden.items():
            for written in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
                assert written not in json.dumps(environment, ensure_ascii=False), (whose, name)
                assert written not in str(environment), (whose, name)


def test_no_process_listens_on_more_than_this_machine(system: FaultySystem) -> None:
    [server] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(Path(system.state["postgres_home"]) / "data") in (process.info["cmdline"] or [])
    ]
    started = [*processes.of_run(system.run), server]
    assert len(started) > 10
    listening = [
        connection.laddr
        for process in started
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    ]
    state = system.state
    assert {state["postgres_port"], state["airflow_port"]} <= {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_another_account_of_the_machine_reads_no_file_of_the_system(system: FaultySystem) -> None:
    backup = system.folder / "backups/of a test"
    system.make("backup", f"BACKUP={backup}")
    home = Path(system.state["postgres_home"])
    places = [system.run, backup.parent, home]
    files = [file for place in places for file in place.rglob("*") if not file.is_symlink()]
    assert {home / "postgres.log", system.run / "state.json", backup / "state.json"} <= set(files)
    assert [file for file in [home / "postgres.log", *backup.glob("*")] if file.stat().st_mode & 0o077] == []

    def is_open(file: Path) -> bool:
        """Whether the modes admit everybody, from the folder of the system on."""
        way = [file, *(folder for folder in file.parents if folder in places or set(folder.parents) & set(places))]
        try:
            return file.stat().st_mode & 0o004 != 0 and all(folder.stat().st_mode & 0o001 for folder in way[1:])
        except FileNotFoundError:  # the server works on, and removes files of its own
            return False

    assert [file for file in files if is_open(file)] == []
    if os.geteuid() == 0:
        # It begins in the folder, so that those above it, which pytest closes, protect nothing.
        look = ["/usr/bin/find", ".", str(home), "-readable", "!", "-type", "d"]
        account: dict[str, Any] = {"user": 54321, "group": 54321, "extra_groups": []}
        done = subprocess.run(look, cwd=system.folder, **account, capture_output=True, text=True, check=False)
        read = done.stdout.splitlines()
        assert "./README.md" in read
        assert [name for name in read if name.startswith((str(home), "./.embedded", "./backups"))] == []
    shutil.rmtree(backup)


def clear_newest_month(system: FaultySystem) -> str:
    return clear(system, newest_month(system))


def get(system: FaultySystem, path: str) -> dict[str, Any]:
    api = system.api()
    answer = api.session.get(f"{api.url}/api/v2/{path}")
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def task_path(system: FaultySystem, task: str) -> str:
    """Where the API has a task of the newest month's run."""
    return f"dags/{SALES_DAG}/dagRuns/{newest_month(system)}/taskInstances/{task}"


def task_states(system: FaultySystem, run: str | None = None) -> dict[str, str | None]:
    return {task["task_id"]: task["state"] for task in task_instances(system, run)}


def kill_the_task_that_copies(system: FaultySystem, connection: Any, run: str) -> int:
    """SIGKILL the process of stage_sales, once it copies; returns its process id."""
    copying = "select 1 from pg_stat_progress_copy where bytes_processed > 0"
    wait_for(lambda: connection.execute(copying).fetchall())
    [pid] = [task["pid"] for task in task_instances(system, run) if task["task_id"] == "stage_sales"]
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def kill_the_task_that_decides(system: FaultySystem, run: str) -> None:
    """SIGKILL the process of approve_month, once it waits to record the answer."""
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%pipeline.decide_load%'"
    with system.connect() as connection:
        wait_for(lambda: connection.execute(waiting).fetchall())
    [pid] = [task["pid"] for task in task_instances(system, run) if task["task_id"] == "approve_month"]
    os.kill(pid, signal.SIGKILL)
