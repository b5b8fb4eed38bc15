"""Lets a task that is cleared or tried again put a new question to a person, by deleting the one that it put before.

Airflow 3.3.2 keeps the first question of a task, with its text, in all later tries: a person would approve figures of a
file that was replaced since. Unnecessary once https://github.com/apache/airflow/pull/73235 is released. Airflow has
copied question and answer into its history before.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy import delete
from sqlalchemy.event import listens_for
from sqlalchemy.orm import object_session


@listens_for(TaskInstance.id, "set")
def delete_question(task: TaskInstance, next_id: UUID, *_: Any) -> None:
    """Delete the question of a task when it gets the id of its next try, to which the database would hand it on."""
    if task.id != next_id and (session := object_session(task)):
        session.execute(delete(HITLDetail).where(HITLDetail.ti_id == task.id))


class FreshQuestions(AirflowPlugin):
    """Adds nothing to Airflow, whose services import plugins when they start."""

    name = "fresh_questions"
