"""The same DAGs on several workers: Airflow's Celery executor, a real broker, and a worker that is killed."""

import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support import csv_text
from support.faulty_bucket import Answer, misbehaving, stall
from support.system import (
    SALES_DAG,
    System,
    clear,
    end_of,
    get,
    months,
    rows,
    staging_sessions,
    started,
    task_instances,
    wait_for,
    write_files,
)

from embedded.postgres import free_port

DAGS = ("customer_data_load", "feature_store", SALES_DAG)
NAMES = ("first", "second")

SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
    # Seconds without a heartbeat after which a task counts as dead; the default is 300.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
}


@dataclass
class Workers:
    """A system with two workers.

    Attributes:
        running: the process of each worker.
    """

    system: System
    bucket_folder: Path
    answers: dict[str, list[Answer]]
    running: dict[str, subprocess.Popen[bytes]]

    def executed(self, name: str) -> set[str]:
        """The ids of the task instances that a worker began, from its output."""
        text = (self.system.run / f"logs/{name}.log").read_text()
        return set(re.findall(r"Executing workload in Celery: .*?TaskInstanceDTO\(id=UUID\('([\w-]+)'\)", text))

    def kill(self, name: str) -> None:
        """SIGKILL a worker and all its processes, as if its machine was gone."""
        worker = psutil.Process(self.running[name].pid)
        for process in [worker, *worker.children(recursive=True)]:
            process.kill()


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A broker on loopback, with a password; yields its address."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    assert program, "this test needs a broker: apt install valkey-server, or redis-server"
    port, password = free_port(), secrets.token_urlsafe()
    configuration = folder / "broker.conf"
    configuration.write_text(f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\ndir {folder}\n')
    with subprocess.Popen([program, str(configuration)], stdout=subprocess.DEVNULL) as server:
        try:
            yield f"redis://:{password}@127.0.0.1:{port}/0"
        finally:
            server.terminate()


def start_workers(system: System) -> dict[str, subprocess.Popen[bytes]]:
    """Start two workers as soon as the scheduler has started, in its environment: `make down` stops them as well."""
    wait_for(lambda: (system.run / "state.json").exists() and "scheduler" in system.state["pids"])
    environment = psutil.Process(system.state["pids"]["scheduler"]).environ()
    command = [sys.executable, "-m", "airflow", "celery", "worker", "--skip-serve-logs", "--celery-hostname"]
    running = {}
    for name in NAMES:
        with (system.run / f"logs/{name}.log").open("wb") as log:
            running[name] = subprocess.Popen(
                [*command, name], env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
    return running


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    bucket_folder = tmp_path_factory.mktemp("bucket")
    write_files(bucket_folder)
    folder = tmp_path_factory.mktemp("system") / "tree"
    with (
        broker(tmp_path_factory.mktemp("broker")) as address,
        misbehaving(bucket_folder) as (bucket, answers, _),
        ThreadPoolExecutor() as pool,
    ):
        settings = {
            "SOURCE_BASE_URL": bucket.url,
            "SOURCE_CA_FILE": str(bucket.ca_file),
            "SALES_FIRST_MONTH": f"{months(2)[0]:%Y-%m}",
            "ON_ANOMALY": "ignore",  # a month is replaced by a much larger one
        }
        airflow_settings = {**SETTINGS, "AIRFLOW__CELERY__BROKER_URL": address}
        # `make up` ends when the workers have loaded everything.
        starting = pool.submit(start_workers, System(folder, {}, ""))
        with started(folder, settings, airflow_settings=airflow_settings) as system:
            yield Workers(system, bucket_folder, answers, starting.result())
        for worker in starting.result().values():
            worker.wait()


def test_both_workers_run_tasks_of_the_workflows(workers: Workers) -> None:
    system, api = workers.system, workers.system.api()
    runs = [(dag, run) for dag in DAGS for run in api.runs(dag)]
    assert {run["state"] for _, run in runs} == {"success"}
    begun = [workers.executed(name) for name in NAMES]
    assert all(begun)
    tasks = {str(task["id"]) for dag, run in runs for task in task_instances(system, run["dag_run_id"], dag)}
    assert tasks <= begun[0] | begun[1]


def test_a_month_whose_worker_is_killed_ends_right_on_the_other_one_and_the_log_is_kept(workers: Workers) -> None:
    system, month = workers.system, months(2)[0]
    path = f"sales/{month}/sales.csv"
    (workers.bucket_folder / path).write_text(csv_text.sales(*(f"{n},2,{month},1" for n in range(50_000))))
    released = threading.Event()
    workers.answers[path] = [stall(600_000, released)]
    run = clear(system, f"scheduled__{month:%Y-%m}")

    wait_for(lambda: rows(system, "select 1 from pg_stat_progress_copy where bytes_processed > 0"))
    [task] = [task for task in task_instances(system, run) if task["task_id"] == "stage_sales"]
    [killed] = [name for name in NAMES if task["id"] in workers.executed(name)]
    [other] = {*NAMES} - {killed}
    workers.kill(killed)
    released.set()
    with system.connect() as connection:
        wait_for(lambda: not staging_sessions(connection))
    # The month stays as it was until it is loaded again.
    assert rows(system, "select count(*), sum(value) from sales") == [(2_000, 1_000)]
    assert end_of(system.api(), run) == "success"
    assert rows(system, f"select count(*), sum(value) from sales where date = '{month}'") == [(50_000, 100_000)]

    again = {task["task_id"]: task for task in task_instances(system, run)}
    assert again["stage_sales"]["try_number"] == task["try_number"] + 1
    assert {str(task["id"]) for task in again.values()} <= workers.executed(other)
    logs = f"dags/{SALES_DAG}/dagRuns/{run}/taskInstances/stage_sales/logs"
    log = get(system, f"{logs}/{task['try_number']}")["content"]
    assert str(task["id"]) in {line.get("ti_id") for line in log}, log
