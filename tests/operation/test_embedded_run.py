"""The whole system as `make up` starts it, with a real scheduler."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest
import requests
from support import csv_text
from support.faulty_bucket import during, redirect, stall
from support.foreign_code import plant_shadows, remove_shadows, shadows_ran
from support.steps import MAINTENANCE, SQL
from support.system import (
    KEYS,
    SALES_DAG,
    FaultySystem,
    clear,
    delete_run,
    end_of,
    get,
    months,
    newest_month,
    rows,
    staging_sessions,
    status,
    task_instances,
    trigger,
    wait_for,
)

from embedded import processes
from embedded.api import Api

LOOPBACK = "127.0.0.1"


def listening() -> set[tuple[Any, ...]]:
    """Where the processes of this machine listen, those included that Airflow keeps from being looked at."""
    return {
        tuple(connection.laddr)
        for connection in psutil.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or (connection.type == socket.SOCK_DGRAM and not connection.raddr)
    }


LISTENING_BEFORE = listening()  # the system is not started yet


def test_a_full_run_loads_both_months(system: FaultySystem) -> None:
    assert rows(system, "select count(*), sum(value) from sales") == [(2_000, 1_000)]
    assert rows(system, "select count(*) from feature_store") == [(1,)]
    assert "sales 2 of 2 months" in system.output
    exit_status, printed = status(system)
    assert exit_status == 0, printed
    assert "2 months of sales: 2 loaded; 2,000 rows" in printed
    health = {part: found["status"] for part, found in get(system, "monitor/health").items()}
    assert health == dict.fromkeys(("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy")


def test_the_dag_of_another_team_runs_when_monthly_sales_is_published(system: FaultySystem) -> None:
    api = system.api()
    runs: list[Any] = []

    def have_ended() -> bool:
        runs[:] = api.runs("report")
        return {run["state"] for run in runs} == {"success"}

    wait_for(have_ended)
    reported = []
    for run in runs:
        log = get(system, f"dags/report/dagRuns/{quote(run['dag_run_id'])}/taskInstances/report/logs/1")["content"]
        reported += [line["event"] for line in log if line.get("event", "").startswith("scheduled__")]
    assert reported
    assert set(reported) <= {run["dag_run_id"] for run in api.runs(SALES_DAG)}


def test_the_ui_shows_the_month_in_the_runs_name_and_the_sql_of_each_task_with_its_variables(
    system: FaultySystem,
) -> None:
    [newest] = months(1)
    run = f"scheduled__{newest:%Y-%m}"
    assert {each["dag_run_id"] for each in system.api().runs(SALES_DAG)} == {
        f"scheduled__{month:%Y-%m}" for month in months(2)
    }
    for task in ("check_month", "publish_month"):
        links = get(system, f"dags/{SALES_DAG}/dagRuns/{run}/taskInstances/{task}/links")
        assert links["extra_links"] == {"SQL": f"/dags/{SALES_DAG}/runs/{run}/tasks/{task}/rendered_templates"}

    query = "select rendered_fields -> 'sql', rendered_fields -> 'parameters' from rendered_task_instance_fields"
    rendered = rows(system, f"{query} where rendered_fields ->> 'sql' is not null", "airflow")
    files = {file.read_text().rstrip("\n"): file for file in SQL.rglob("*.sql")}
    shown = set()
    for sql, parameters in rendered:
        for text in [sql] if isinstance(sql, str) else sql:
            assert set(re.findall(r"%\((\w+)\)s", text)) <= set(parameters or {})
            shown.add(text.rstrip("\n"))
    assert {file for text, file in files.items() if text not in shown} <= set(SQL.glob("maintenance/*.sql"))
    # Besides the files there are the settings and the commit of a rebuild.
    assert {text.split()[0] for text in shown - files.keys()} == {"set", "commit"}
    months_shown = {parameters["file_month"] for _, parameters in rendered if "file_month" in (parameters or {})}
    assert months_shown == {str(month) for month in months(2)}


SIGNATURE = "signature-of-a-redirect"


def test_no_secret_is_in_a_log_a_row_of_airflow_or_a_process_argument(system: FaultySystem) -> None:
    # Failures speak more than successes: a redirect whose host does not answer, and one that is rejected.
    run, path = newest_month(system), f"sales/{months(1)[0]}/sales.csv"

    def fail(target: str, end: str) -> None:
        # Once more than it is asked for: on a machine that pauses here, the next try could begin before we look.
        system.answers[path] = [redirect(f"{target}/x?X-Amz-Signature={SIGNATURE}")] * 2
        clear(system, run)
        wait_for(lambda: len(system.answers[path]) < 2 and task_states(system, run)["stage_sales"] == end)

    def last_line() -> str:
        task = f"dags/{SALES_DAG}/dagRuns/{run}/taskInstances/stage_sales"
        log = get(system, f"{task}/logs/{get(system, task)['try_number']}?full_content=true")["content"]
        return str([line["event"] for line in log if not line["event"].startswith("::")][-1])

    fail("https://127.0.0.1:1", "up_for_retry")
    assert re.match(r"https://.*\nthe fault may be transient; the next try is in ", last_line())
    fail("http://127.0.0.1:1", "failed")  # it is cleared in the pause before the next try
    assert re.match("https://.* Then clear this run.", last_line())

    state = system.state
    hidden = [*system.passwords.values(), SIGNATURE, *(state[name] for name in KEYS)]
    assert all(hidden)

    def found_in(text: str) -> list[str]:
        return [secret for secret in hidden if secret in text]

    logs = [file for file in system.run.rglob("*") if file.is_file() and "logs" in file.parts]
    logs.append(Path(state["postgres_home"]) / "postgres.log")
    assert len(logs) > 15
    for file in logs:
        assert found_in(file.read_text(errors="replace")) == [], file

    public = rows(system, "select tablename from pg_tables where schemaname = 'public'", "airflow")
    tables = {name for (name,) in public}
    assert {"task_instance", "xcom", "rendered_task_instance_fields", "log", "dag_run"} <= tables
    for table, database in [*((f'public."{table}"', "airflow") for table in tables), ("pipeline.loads", "companydata")]:
        for (row,) in rows(system, f"select t::text from {table} as t", database):
            assert found_in(row) == [], table

    running = processes.of_run(system.run)
    assert len(running) > 3
    for process in running:
        with suppress(psutil.NoSuchProcess):  # the DAG processor's end when they have read a file
            assert found_in(" ".join(process.cmdline())) == [], process.pid
    assert found_in(system.output) == []
    system.answers[path] = []
    clear(system, run)
    assert end_of(system.api(), run) == "success"


def test_no_service_and_no_command_runs_code_of_mle_user(system: FaultySystem) -> None:
    plant_shadows(system.address)
    try:
        for command in ("up", "status"):
            system.make(command)
        assert end_of(system.api(), clear(system, newest_month(system))) == "success"
        assert not shadows_ran(system.address)
    finally:
        remove_shadows(system.address)


def test_readers_connect_to_no_database_but_their_own_and_leave_connections_to_airflow_and_the_tasks(
    system: FaultySystem,
) -> None:
    """Elsewhere, nothing is taken from the privileges of everybody, such as those to make large objects."""
    for login in ("ds_user", "mle_user"):
        for database in ("airflow", "postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match=f'permission denied for database "{database}"'):
                psycopg.connect(system.address(login, database))
    assert rows(system, "show reserved_connections") == [("40",)]
    members = "select member::regrole::text from pg_auth_members where roleid = 'pg_use_reserved_connections'::regrole"
    assert rows(system, f"{members} order by 1") == [("airflow",), ("pipeline",)]


def kill_task(system: FaultySystem, run: str, task_id: str) -> int:
    """SIGKILL the process of a task; returns its process id."""
    [pid] = [task["pid"] for task in task_instances(system, run) if task["task_id"] == task_id]
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def kill_copy(system: FaultySystem, month: date) -> str:
    """Clear a month, and kill its task in the middle of the copy of a larger file; returns the run."""
    path = f"sales/{month}/sales.csv"
    (system.bucket_folder / path).write_text(csv_text.sales(*(f"{n},2,{month},1" for n in range(50_000))))
    released = threading.Event()
    system.answers[path] = [stall(600_000, released)]
    run = clear(system, f"scheduled__{month:%Y-%m}")
    wait_for(lambda: rows(system, "select 1 from pg_stat_progress_copy where bytes_processed > 0"))
    killed = kill_task(system, run, "stage_sales")
    released.set()
    wait_for(lambda: not psutil.pid_exists(killed))
    with system.connect() as connection:
        wait_for(lambda: not staging_sessions(connection))
    assert rows(system, f"select status, error from month_status where file_month = '{month}'") == [
        ("failed", "The process that loaded the file was killed.")
    ]
    assert rows(system, f"select count(*), sum(value) from sales where date = '{month}'") == [(1_000, 500)]
    return run


def viewer_of(system: FaultySystem) -> Api:
    return Api(system.url, "viewer", system.passwords["AIRFLOW_VIEWER_PASSWORD"])


def test_the_viewer_sees_everything_and_changes_nothing(system: FaultySystem) -> None:
    viewer, run = viewer_of(system), newest_month(system)
    api = f"{viewer.url}/api/v2"
    sales = f"{api}/dags/{SALES_DAG}"
    task = f"{sales}/dagRuns/{run}/taskInstances/stage_sales"
    newest_try = viewer.session.get(task).json()["try_number"]  # other tests kill the task, and clear its run
    for seen in (sales, f"{task}/logs/{newest_try}", f"{task}/links", f"{api}/dagSources/{SALES_DAG}", f"{api}/assets"):
        assert viewer.session.get(seen).ok, seen
    month = {"from_date": f"{months(1)[0]}T00:00:00Z", "to_date": f"{months(1)[0]}T00:00:00Z"}
    chosen = {"chosen_options": ["Approve"], "params_input": {}}
    for method, address, fields in (
        ("post", f"{sales}/dagRuns/{run}/clear", {"dry_run": False}),
        ("post", f"{sales}/dagRuns", {"logical_date": datetime.now(UTC).isoformat()}),
        ("patch", sales, {"is_paused": True}),
        ("post", f"{api}/backfills", {"dag_id": SALES_DAG, **month}),
        ("patch", f"{task}/-1/hitlDetails", chosen),
        ("get", f"{api}/connections", {}),
    ):
        assert viewer.session.request(method, address, json=fields).status_code == 403, address


def test_the_report_is_in_the_menu_and_only_for_those_who_are_logged_in(system: FaultySystem) -> None:
    report, viewer = f"{system.url}/report/", viewer_of(system)
    assert requests.get(report, timeout=60).status_code == 401
    assert "make report writes one" in viewer.session.get(report).text
    page = system.folder / "report.html"
    page.write_text("<h1>Company data</h1>")
    shown = viewer.session.get(report)
    page.unlink()
    assert (shown.text, shown.headers["content-type"]) == ("<h1>Company data</h1>", "text/html; charset=utf-8")
    views = [view for plugin in get(system, "plugins")["plugins"] for view in plugin["external_views"]]
    assert [(view["name"], view["href"]) for view in views] == [("Report", "report/")]


def test_an_unusual_month_waits_for_a_person_and_tasks_that_are_killed_in_a_copy_or_an_answer_are_tried_again(
    system: FaultySystem,
) -> None:
    api, (older, newest) = system.api(), months(2)
    changed = "rows: 500 (published: 1,000); total: 250 (published: 500)"
    by_store = "| 1 | Porto | 1,000 | 500 | -50 % | 500 | 250 | -50 % |"  # store 1, rows and total
    file = system.bucket_folder / f"sales/{newest}/sales.csv"
    good = file.read_text()
    file.write_text("".join(good.splitlines(keepends=True)[:501]))
    ledger = "select count(*), max(updated_at), (select count(*) from pipeline.files) from pipeline.loads"
    before = rows(system, ledger)
    previewed = system.make("preview", f"MONTH={newest:%Y-%m}")
    unusual = "The month is unusual and would be published without a decision (ON_ANOMALY=ignore)"
    assert f"{unusual}: {changed}." in previewed
    assert by_store in previewed
    file.write_text(good)
    assert "The same file as is published: nothing would change." in system.make("preview", f"MONTH={newest:%Y-%m}")
    stores = system.bucket_folder / "stores.csv"
    known_stores = stores.read_text()
    stores.write_text(known_stores + "2,Faro\n")
    previewed = system.make("preview", f"MONTH={newest:%Y-%m}")
    assert "The same file as is published: only stores and locations would change, by stores.csv." in previewed
    stores.write_text(known_stores)
    refused = system.command("/usr/bin/env", "make", "preview", "TABLE=labels", f"MONTH={newest:%Y-%m}")
    assert 'TABLE is "labels", which has no file per month. Write it as one of: sales.' in refused.stderr
    file.write_text(re.sub(r",\d+$", ",99", good, flags=re.MULTILINE))
    rejected = system.make("preview", f"MONTH={newest:%Y-%m}")
    verdict = r"^The month would be rejected: rows whose store is not in stores\.csv: .* store 99\.$"
    assert re.search(verdict, rejected, re.MULTILINE)
    file.write_text("".join(good.splitlines(keepends=True)[:501]))
    assert rows(system, ledger) == before
    with pytest.raises(
        ValueError, match=r"on_anomaly: 'HOLD' is not one of \[None, 'protect', 'ask', 'warn', 'ignore'\]"
    ):
        trigger(system, on_anomaly="HOLD")
    stopped = trigger(system, odd_month="ask")
    assert end_of(api, stopped) == "failed"
    [failure] = api.failures(SALES_DAG, stopped)
    assert "The configuration of the run has odd_month, which this workflow does not know" in failure.log
    run = trigger(system, on_anomaly="ask")
    assert run.startswith(f"manual__{newest:%Y-%m}__")
    wait_for(lambda: task_states(system, run)["approve_month"] == "awaiting_input")
    place = f"dags/{SALES_DAG}/dagRuns/{quote(run)}/taskInstances/approve_month/-1/hitlDetails"
    assert by_store in get(system, place)["body"]
    assert changed.split(";")[0] in get(system, place)["body"]
    approve_first, _ = get(system, place)["options"]
    months_shown = "select status, row_count, error from month_status order by file_month desc limit 1"
    assert rows(system, months_shown) == [("pending_approval", 1_000, changed)]
    wait_for(lambda: sent(system, "pending_approval", run))
    # The run that failed before is no failure of make up, and neither is the question.
    printed = system.make("up")
    assert "2 months of sales: 1 loaded, 1 pending_approval" in printed
    assert f"Airflow     {system.url}" in printed
    assert f"\n1 month waits for your decision: {system.url}/required_actions\n" in printed
    delete_run(system, stopped)
    # Half a minute passes until its next try. No other test clears this month: the pause doubles, over clearings too.
    of_older = kill_copy(system, older)

    # The file is replaced. The page that shows the question about it is still open.
    file.write_text("".join(good.splitlines(keepends=True)[:401]))
    released = threading.Event()
    system.answers[f"sales/{newest}/sales.csv"] = [during(lambda: released.wait(30))]
    clear(system, run)

    def answer(option: str) -> int:
        chosen = {"chosen_options": [option], "params_input": {}}
        return api.session.patch(f"{api.url}/api/v2/{place}", json=chosen).status_code

    assert answer(approve_first) == 404
    released.set()
    wait_for(lambda: task_states(system, run)["approve_month"] == "awaiting_input")
    assert answer(approve_first) == 400
    assert "| 1 | Porto | 1,000 | 400 | -60 % | 500 | 200 | -60 % |" in get(system, place)["body"]
    approve, _ = get(system, place)["options"]
    # Airflow 3.3.2 takes an answer for a failure if its scheduler has not yet heard that the task put the question.
    number = get(system, place.rpartition("/-1/")[0])["try_number"]
    heard = f"TaskInstance Finished: dag_id={SALES_DAG}, task_id=approve_month, run_id={run}"
    heard_now = re.compile(rf"{re.escape(heard)}.* try_number={number},")
    wait_for(lambda: heard_now.search((system.run / "logs/scheduler.log").read_text()))
    waiting = (
        "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%pipeline.approval_requests%'"
    )
    with system.connect() as connection, connection.transaction():
        connection.execute("lock table pipeline.anomaly_checks")
        assert answer(approve) == 200
        wait_for(lambda: rows(system, waiting))
        assert rows(system, "select count(*) from pipeline.loads where decided_by = 'airflow'") == [(1,)]
        kill_task(system, run, "approve_month")
    assert end_of(api, run) == "success"
    assert rows(system, f"select count(*) from sales where date >= '{newest}'") == [(400,)]
    changed = "rows: 400 (published: 1,000); total: 200 (published: 500)"
    decided = "select distinct decided_by, anomalies from data_statistics where is_current and decided_by = 'airflow'"
    assert rows(system, decided) == [("airflow", changed)]
    # The test below loads the month again.
    file.write_text(good)
    delete_run(system, run)

    assert end_of(api, of_older) == "success"
    assert rows(system, f"select count(*), sum(value) from sales where date = '{older}'") == [(50_000, 100_000)]
    left = f"""
        select from pipeline.loads join pipeline.files using (file_id)
        where to_regclass(staged_table) is not null and file_month = '{older}'
    """
    # A table that a session uses, such as autovacuum's, is left to the next clean-up.
    wait_for(lambda: rows(system, "select pipeline.clean_up()") and not rows(system, left))


def task_states(system: FaultySystem, run: str) -> dict[str, str | None]:
    return {task["task_id"]: task["state"] for task in task_instances(system, run)}


def sent(system: FaultySystem, event: str, run: str) -> list[dict[str, Any]]:
    """What the webhook received of a run."""
    return [post for post in system.posted if (post["event"], post["run"]) == (event, run)]


def test_a_month_that_fails_in_a_backfill_is_notified_once_and_loaded_when_it_is_cleared(system: FaultySystem) -> None:
    [newest] = months(1)
    file = system.bucket_folder / f"sales/{newest}/sales.csv"
    good = file.read_text()
    file.write_text(csv_text.sales("1,1,2000-01-01,1"))
    api, run = system.api(), newest_month(system)
    end_of(api, run)
    before = sent(system, "failed", run)
    # All Runs, in the form.
    month = {"dag_id": SALES_DAG, "from_date": f"{newest}T00:00:00Z", "to_date": f"{newest}T00:00:00Z"}
    begun = api.session.post(f"{api.url}/api/v2/backfills", json={**month, "reprocess_behavior": "completed"})
    assert begun.ok, begun.text

    wait_for(lambda: sent(system, "failed", run) != before)
    [post] = sent(system, "failed", run)[len(before) :]
    assert (post["month"], post["task"]) == (f"{newest:%Y-%m}", "stage_sales")
    assert "the date is in the month of the file" in post["reason"]
    assert post["link"].startswith(f"{api.url}/dags/{SALES_DAG}/runs/{quote(run)}/tasks/stage_sales")
    wait_for(lambda: len(system.mail.mails) == len(system.posted))
    subjects = {str(mail["Subject"]) for mail in system.mail.mails}
    assert {f"[company data] {post['text'].splitlines()[0]}" for post in system.posted} == subjects

    file.write_text(good)
    clear(system, run)
    assert end_of(api, run) == "success"
    assert rows(system, f"select count(*) from sales where date >= '{newest}'") == [(1_000,)]
    assert len(sent(system, "failed", run)) == len(before) + 1


def test_the_maintenance_cleans_up_and_reports_what_it_did(system: FaultySystem) -> None:
    run = trigger(system, MAINTENANCE)
    end_of(system.api(), run, MAINTENANCE)
    assert system.api().failures(MAINTENANCE, run) == []
    place = f"dags/{MAINTENANCE}/dagRuns/{quote(run)}/taskInstances/report/xcomEntries/return_value"
    overdue, approvals, logs, staging, compared, sales = get(system, place)["value"].splitlines()
    assert overdue == "0 months are overdue"
    assert approvals == "approvals: 0 loads waited for a person, 0 of them in a run that has ended"
    assert re.fullmatch(r"logs: deleted 0 files; \d+ are left, \d+ MB", logs)
    assert re.fullmatch(r"\d+ staged tables are left, .*; the ledger has \d+ loads", staging)
    assert compared == "6 published files were compared with the tables; 0 differ"
    assert re.fullmatch(r"statistics: sales 2 months, \d+ rows", sales)


def test_a_table_of_airflow_whose_records_are_not_cleaned_fails_the_command(system: FaultySystem) -> None:
    address = f"postgresql+psycopg2://cleaner:cleaner@127.0.0.1:{system.state['postgres_port']}/airflow"
    with system.connect("airflow") as connection:
        connection.execute("create role cleaner login password 'cleaner'")
        connection.execute("grant connect on database airflow to cleaner")
        connection.execute("grant select on all tables in schema public to cleaner")
        tasks = "select id from task_instance"
        before = set(connection.execute(tasks).fetchall())
        failed = subprocess.run(
            [sys.executable, "-m", "services.airflow_db_clean", "--days=-1"],
            cwd=system.folder,
            env={**os.environ, "AIRFLOW_HOME": str(system.run), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address},
            capture_output=True,
            text=True,
            check=False,
        )
        assert failed.returncode == 1
        assert "did not clean every table" in failed.stderr
        assert "errors on the following tables" in failed.stderr
        assert before <= set(connection.execute(tasks).fetchall())
        connection.execute("drop owned by cleaner")
        connection.execute("drop role cleaner")


def test_a_task_sees_no_password_in_any_environment_and_its_log_is_shown_while_it_runs(system: FaultySystem) -> None:
    api = system.api()
    wait_for(lambda: api.session.get(f"{api.url}/api/v2/dags/looking").ok)
    run = trigger(system, "looking")
    wait_for((system.folder / "seen.json").exists)
    try:
        log = f"dags/looking/dagRuns/{quote(run)}/taskInstances/look/logs/1"
        wait_for(lambda: "the task has looked" in str(get(system, log)["content"]))
        [task] = task_instances(system, run, "looking")
        assert task["state"] == "running"
    finally:
        (system.folder / "looked").touch()
    assert end_of(api, run, "looking") == "success"
    assert "read served logs" not in (system.run / "logs/api-server.log").read_text()

    environments = json.loads((system.folder / "seen.json").read_text())
    assert environments["its own"]["AIRFLOW_CONN_OPERATIONAL_DB"].startswith("postgresql://pipeline@127.0.0.1:")
    assert len(environments) > 3  # its own, as it began, and its parents'
    state = system.state
    hidden = {name: system.passwords[name] for name in state["passwords"]}
    hidden |= {name: state[name] for name in KEYS}
    for whose, environment in environments.items():
        for name, secret in hidden.items():
            for written in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
                assert written not in json.dumps(environment, ensure_ascii=False), (whose, name)
                assert written not in str(environment), (whose, name)


def test_no_process_listens_on_more_than_this_machine(system: FaultySystem) -> None:
    state = system.state
    # Other processes come and go.
    wait_for(lambda: all(address == LOOPBACK for address, _ in listening() - LISTENING_BEFORE))
    assert {(LOOPBACK, state["postgres_port"]), (LOOPBACK, state["airflow_port"])} <= listening()


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
