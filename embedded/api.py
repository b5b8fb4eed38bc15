"""Airflow's public REST API, as far as the embedded run uses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Failure:
    """A task that failed for good, and the end of its log."""

    dag: str
    run: str
    task: str
    log: str


class Api:
    """A logged-in client.

    Raises:
        requests.RequestException: from every method, when the server does not answer, or answers with an error.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        """Log in; the token lasts for a day."""
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False  # neither proxies nor a CA bundle matter on loopback
        answer = self.session.post(
            f"{url}/auth/token", json={"username": user, "password": password}, timeout=TIMEOUT_SECONDS
        )
        answer.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Every run of a DAG; none while Airflow has not read the DAG's file yet."""
        found: list[dict[str, Any]] = []
        while True:
            answer = self._get(f"/dags/{dag}/dagRuns", limit=100, offset=len(found), order_by="run_after")
            if answer is None:
                return []
            found += answer["dag_runs"]
            if len(found) >= answer["total_entries"] or not answer["dag_runs"]:
                return found

    def import_errors(self) -> list[str]:
        """What keeps a DAG file from being read."""
        answer = self._get("/importErrors") or {"import_errors": []}
        return [f"{error['filename']}: {error['stack_trace']}" for error in answer["import_errors"]]

    def producers(self) -> dict[str, str]:
        """The DAG that publishes each table: the one whose task has the asset of this name."""
        answer = self._get("/assets", limit=100) or {"assets": []}
        return {
            asset["name"]: asset["producing_tasks"][0]["dag_id"]
            for asset in answer["assets"]
            if asset["producing_tasks"]
        }

    def failures(self, dag: str, run: str) -> list[Failure]:
        """The failed tasks of a run."""
        answer = self._get(f"/dags/{dag}/dagRuns/{run}/taskInstances", state="failed") or {"task_instances": []}
        return [
            Failure(dag, run, task["task_id"], self._log(dag, run, task["task_id"], task["try_number"]))
            for task in answer["task_instances"]
        ]

    def backfill(self, dag: str, first: str, last: str) -> bool:
        """Create a run for each interval from first to last (YYYY-MM-DD) that has none; not while a backfill runs.

        Returns:
            Whether the backfill was created.
        """
        answer = self.session.post(
            f"{self.url}/api/v2/backfills",
            json={"dag_id": dag, "from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z"},
            timeout=TIMEOUT_SECONDS,
        )
        if answer.status_code == requests.codes.conflict:
            return False
        answer.raise_for_status()
        return True

    def trigger(self, dag: str, logical_date: str | None, configuration: Mapping[str, object]) -> str:
        """Create a manual run; returns its id.

        Raises:
            ValueError: Airflow does not create it; the message is Airflow's.
        """
        answer = self.session.post(
            f"{self.url}/api/v2/dags/{dag}/dagRuns",
            json={"logical_date": logical_date, "conf": dict(configuration)},
            timeout=TIMEOUT_SECONDS,
        )
        if answer.status_code in (requests.codes.bad_request, requests.codes.unprocessable_entity):
            raise ValueError(str(answer.json()["detail"]))
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def questions(self) -> set[tuple[str, str]]:
        """DAG and id of each run that waits for a person to answer."""
        answer = self._get("/dags/~/dagRuns/~/hitlDetails", response_received="false", limit=100)
        asking = [detail["task_instance"] for detail in (answer or {"hitl_details": []})["hitl_details"]]
        return {(task["dag_id"], task["dag_run_id"]) for task in asking}

    def paused(self) -> set[str]:
        """The DAGs that start nothing."""
        answer = self._get("/dags", paused="true", limit=100) or {"dags": []}
        return {dag["dag_id"] for dag in answer["dags"]}

    def unfinished_tasks(self) -> Counter[tuple[str, str]]:
        """How many tasks of each DAG are in each state: running, or waiting for a slot or their next try."""
        query = "&".join(f"state={state}" for state in ("running", "queued", "scheduled", "up_for_retry"))
        answer = self._get(f"/dags/~/dagRuns/~/taskInstances?{query}", limit=100) or {"task_instances": []}
        return Counter((task["dag_id"], task["state"]) for task in answer["task_instances"])

    def full_pools(self) -> list[str]:
        """The pools that have no free slot."""
        answer = self._get("/pools", limit=100) or {"pools": []}
        return [f"{pool['name']} ({pool['slots']} slots)" for pool in answer["pools"] if pool["open_slots"] == 0]

    def _log(self, dag: str, run: str, task: str, attempt: int) -> str:
        answer = self._get(f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}", full_content="true")
        errors = []
        for line in (answer or {}).get("content", []):
            if not isinstance(line, dict) or line.get("level") not in ("error", "critical"):
                continue
            details = [f"{detail['exc_type']}: {detail['exc_value']}" for detail in line.get("error_detail") or []]
            errors.append("\n".join([str(line.get("event", "")), *details]))
        # The reason comes last.
        return errors[-1] if errors else "its log holds no error; look at it in the UI"

    def _get(self, path: str, **query: str | int) -> dict[str, Any] | None:
        answer = self.session.get(f"{self.url}/api/v2{path}", params=query, timeout=TIMEOUT_SECONDS)
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result
