"""The documentation that Airflow's UI shows: a DAG's own, and the part of it that is about one task."""

import re

from airflow.sdk import DAG

HEADING = re.compile(r"^#### (.+)$", re.M)


def explain_tasks(dag: DAG) -> None:
    """Give each task the section of the DAG's documentation that names it in its heading."""
    _, *parts = HEADING.split(dag.doc_md or "")
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        for task_id in re.findall(r"\w+", heading):
            task = dag.get_task(task_id)
            task.doc_md = f"#### {heading}\n\n{text.strip()}\n"  # type: ignore[misc]  # read-only where mapped; none is
