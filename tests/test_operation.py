"""The whole system as `make up` starts it, with a real scheduler: secrets stay secret, a killed task is tried again."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from conftest import ROOT
from misbehaviour import Answer, misbehaving, redirect, stall
from receivers import MailServer, mail_server, webhook

from local import processes
from local.airflow import Api
from local.postgres import free_port
from local.sample_data import months_before
from local.tree import copy_tree

SALES_DAG = "sales_load_and_aggregation"


@dataclass
class System:
    """A started embedded run in a copy of the tree."""

    folder: Path
    bucket_folder: Path
    answers: dict[str, list[Answer]]
    environment: dict[str, str]
    passwords: dict[str, str]
    posted: list[dict[str, Any]]
    mail: MailServer
    output: str

    @property
    def run(self) -> Path:
        return self.folder / ".embedded"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "state.json").read_text())
        return found

    def connect(self, database: str = "companydata") -> Any:
        port = self.state["postgres_port"]
        return psycopg.connect(f"postgresql://admin:admin@127.0.0.1:{port}/{database}", autocommit=True)

    def api(self) -> Api:
        return Api(f"http://127.0.0.1:{self.state['airflow_port']}", "airflow", "airflow")


def months(count: int) -> list[date]:
    """The first days of the last whole months, oldest first."""
    return months_before(datetime.now(timezone.utc).date(), count)


def write_files(folder: Path) -> None:
    for month in months(2):
        file = folder / f"sales/{month}/sales.csv"
        file.parent.mkdir(parents=True)
        rows = "".join(f"{n},0.5,{month},1\n" for n in range(1_000))
        file.write_text("idx,value,date,store_idx\n" + rows)
    (folder / "stores.csv").write_text("idx,location\n1,Porto\n")
    (folder / "customer_profiles.csv").write_text("idx,attr_a,attr_b,attr_c\n1,1,A,x\n")
    (folder / "customer_activity.csv").write_text("idx,valid_from,valid_to,scd_a,scd_b\n1,2020-01-01,,1,1\n")
    (folder / "labels.csv").write_text("idx,label\n1,0\n")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder, bucket_folder = tmp_path_factory.mktemp("system") / "tree", tmp_path_factory.mktemp("bucket")
    copy_tree(folder)
    write_files(bucket_folder)
    passwords = {
        name: f"secret-{secrets.token_hex(8)}"
        for name in ("PIPELINE_PASSWORD", "DS_USER_PASSWORD", "MLE_USER_PASSWORD", "SOURCE", "WEBHOOK")
    }
    authorities = tmp_path_factory.mktemp("authorities") / "both.pem"
    with (
        misbehaving(bucket_folder) as (bucket, answers, _),
        webhook(bucket_folder) as (receiver, posted),
        mail_server() as mail,
    ):
        authorities.write_bytes(bucket.ca_file.read_bytes() + receiver.ca_file.read_bytes())
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **passwords,
            "SOURCE_BASE_URL": bucket.url.replace("https://", f"https://reader:{passwords['SOURCE']}@"),
            "REQUESTS_CA_BUNDLE": str(authorities),
            "NOTIFY_WEBHOOK_URL": f"{receiver.url}/{passwords['WEBHOOK']}",
            "NOTIFY_EMAIL": "operator@here",
            "AIRFLOW_CONN_SMTP_DEFAULT": mail.connection,
            "SALES_DEADLINE_HOURS": "0.005",
            "SALES_FIRST_MONTH": f"{months(2)[0]:%Y-%m}",
            "OPERATIONAL_DB_PORT": str(free_port(25432)),
            "AIRFLOW_PORT": str(free_port(28082)),
        }

        def local(command: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "local", command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        try:
            output = local("up")
            yield System(folder, bucket_folder, answers, environment, passwords, posted, mail, output)
        finally:
            local("down")
            assert processes.of_run(folder / ".embedded") == []
            local("clean")


def test_a_full_run_loads_both_months(system: System) -> None:
    with system.connect() as connection:
        assert connection.execute("select count(*), sum(value) from sales").fetchall() == [(2_000, 1_000)]
        assert connection.execute("select count(*) from feature_store").fetchall() == [(1,)]
    assert "sales 2 of 2 months" in system.output


def test_the_ui_shows_the_month_in_the_runs_name_and_the_sql_of_its_tasks(system: System) -> None:
    runs = {run["dag_run_id"] for run in system.api().runs(SALES_DAG)}
    assert runs == {f"scheduled__{month:%Y-%m}" for month in months(2)}

    [newest] = months(1)
    path = f"dags/{SALES_DAG}/runs/scheduled__{newest:%Y-%m}/tasks"
    files = {
        "check_sales": ["check_sales"],
        "publish_sales": ["publish_stores", "replace_month_of_sales"],
        "aggregate_month": ["replace_month_of_monthly_sales"],
    }
    for task, names in files.items():
        links = get(system, f"{task_path(system, task)}/links")
        assert links["extra_links"] == {"SQL": f"/{path}/{task}/rendered_templates"}
        rendered = get(system, task_path(system, task))["rendered_fields"]
        text = "\n".join((ROOT / f"sql/sales/{name}.sql").read_text().rstrip("\n") for name in names)
        assert rendered["sql"] == text
        assert rendered["parameters"]["sale_month"] == str(newest)


SIGNATURE = "signature-of-a-redirect"


def test_no_secret_is_in_a_log_a_row_of_airflow_or_a_process_argument(system: System) -> None:
    # Failures speak more than successes: a redirect that is refused, and one whose host does not answer.
    path = f"sales/{months(1)[0]}/sales.csv"
    for target in ("http://127.0.0.1:1", "https://127.0.0.1:1"):
        system.answers[path] = [redirect(f"{target}/x?X-Amz-Signature={SIGNATURE}")]
        clear_newest_month(system)
        wait_for(lambda: not system.answers[path], 60)
        wait_for(lambda: task_states(system)["stage_sales"] not in ("running", "queued", None), 60)

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
        for (row,) in connection.execute("select t::text from pipeline.file_loads as t").fetchall():
            assert found_in(row) == []

    running = processes.of_run(system.run)
    assert len(running) > 3
    for process in running:
        assert found_in(" ".join(process.cmdline())) == [], process.pid
    assert found_in(system.output) == []


def test_a_task_that_is_killed_in_the_middle_of_its_copy_is_tried_again_and_ends_right(system: System) -> None:
    month = months(1)[0]
    path = f"sales/{month}/sales.csv"
    rows = "".join(f"{n},2,{month},1\n" for n in range(50_000))
    (system.bucket_folder / path).write_text("idx,value,date,store_idx\n" + rows)
    released = threading.Event()
    system.answers[path] = [stall(600_000, released)]
    api = system.api()
    run = clear_newest_month(system)

    with system.connect() as connection:
        killed = kill_the_task_that_copies(system, connection)
        released.set()
        wait_for(lambda: not psutil.pid_exists(killed), 30)
        wait_for(lambda: not sessions(connection, f"{SALES_DAG}.stage_sales"), 20)
        assert connection.execute("select count(*), sum(value) from sales").fetchall() == [(2_000, 1_000)]

        wait_for(lambda: state_of(api, run) == "success", 240)
        found = connection.execute("select count(*), sum(value) from sales where date >= %s", [month]).fetchall()
        assert found == [(50_000, 100_000)]
        assert connection.execute("select count(*) from staging.sales").fetchall() == [(0,)]


def test_a_month_that_fails_in_a_backfill_is_told_and_told_again_when_its_deadline_has_passed(system: System) -> None:
    [newest] = months(1)
    file = system.bucket_folder / f"sales/{newest}/sales.csv"
    good = file.read_text()
    file.write_text("idx,value,date,store_idx\n1,1,2000-01-01,1\n")
    # A new run, because one that was in time before has no deadline anymore.
    api, run = system.api(), f"backfill__{newest:%Y-%m}"
    gone = api.session.delete(f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns/{newest_month(system)}")
    assert gone.ok, gone.text
    form = {"dag_id": SALES_DAG, "from_date": f"{newest}T00:00:00Z", "to_date": f"{newest}T00:00:00Z"}
    made = api.session.post(f"{api.url}/api/v2/backfills", json=form)
    assert made.ok, made.text
    assert newest_month(system) == run

    def told(event: str) -> list[dict[str, Any]]:
        return [post for post in system.posted if (post["event"], post["run"]) == (event, run)]

    wait_for(lambda: told("failed"), 120)
    [post] = told("failed")
    assert (post["month"], post["task"]) == (f"{newest:%Y-%m}", "stage_sales")
    assert "is not dated in" in post["reason"]
    assert post["link"].startswith(f"{api.url}/dags/{SALES_DAG}/runs/{run}/tasks/stage_sales")
    wait_for(lambda: told("overdue"), 120)
    [post] = told("overdue")
    assert post["link"] == f"{api.url}/dags/{SALES_DAG}/runs/{run}"
    wait_for(lambda: len(system.mail.mails) == len(system.posted), 30)
    subjects = {str(mail["Subject"]) for mail in system.mail.mails}
    assert {f"[company data] {post['text'].splitlines()[0]}" for post in system.posted} == subjects

    file.write_text(good)
    clear_newest_month(system)
    wait_for(lambda: state_of(api, run) == "success", 120)
    assert len(told("failed")) == 1


def newest_month(system: System) -> str:
    runs = system.api().runs(SALES_DAG)
    return str(max(runs, key=lambda run: str(run["data_interval_start"]))["dag_run_id"])


def clear_newest_month(system: System) -> str:
    """Clear the run of the newest month, as a person does in the UI; returns its id."""
    api, run = system.api(), newest_month(system)
    answer = api.session.post(f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns/{run}/clear", json={"dry_run": False})
    assert answer.ok, answer.text
    return run


def task_instances(system: System) -> list[dict[str, Any]]:
    """The tasks of the newest month's run."""
    api, run = system.api(), newest_month(system)
    answer = api.session.get(f"{api.url}/api/v2/dags/{SALES_DAG}/dagRuns/{run}/taskInstances").json()
    found: list[dict[str, Any]] = answer["task_instances"]
    return found


def get(system: System, path: str) -> dict[str, Any]:
    api = system.api()
    answer = api.session.get(f"{api.url}/api/v2/{path}")
    assert answer.ok, answer.text
    found: dict[str, Any] = answer.json()
    return found


def task_path(system: System, task: str) -> str:
    """Where the API has a task of the newest month's run."""
    return f"dags/{SALES_DAG}/dagRuns/{newest_month(system)}/taskInstances/{task}"


def task_states(system: System) -> dict[str, str | None]:
    return {task["task_id"]: task["state"] for task in task_instances(system)}


def sessions(connection: Any, application: str) -> list[tuple[int]]:
    query = "select client_port from pg_stat_activity where application_name = %s and state is not null"
    found: list[tuple[int]] = connection.execute(query, [application]).fetchall()
    return found


def kill_the_task_that_copies(system: System, connection: Any) -> int:
    """SIGKILL the process of stage_sales, once it copies; returns its process id."""
    copying = "select 1 from pg_stat_progress_copy where bytes_processed > 0"
    wait_for(lambda: connection.execute(copying).fetchall(), 60)
    [pid] = [task["pid"] for task in task_instances(system) if task["task_id"] == "stage_sales"]
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def state_of(api: Api, run: str) -> str:
    return str(next(found["state"] for found in api.runs(SALES_DAG) if found["dag_run_id"] == run))


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
