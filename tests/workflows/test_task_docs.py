"""What Airflow's UI tells about each task without its code."""

import re

import pytest
from airflow.utils.types import DagRunType
from conftest import ROOT
from support.steps import CUSTOMERS, FEATURES, MAINTENANCE, SALES, dag


@pytest.mark.parametrize("dag_id", [CUSTOMERS, FEATURES, MAINTENANCE, SALES])
def test_each_task_says_what_its_failure_means_where_to_look_and_what_to_do_and_names_its_sql_files(
    airflow: None, dag_id: str
) -> None:
    from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

    for task in dag(dag_id).tasks:
        text = task.doc_md or ""
        assert f"`{task.task_id}`" in text.splitlines()[0]
        assert re.findall(r"^- \*\*(\w+)", text, re.M) == ["When", "Look", "Then"], task.task_id
        assert text.count("####") == 1
        assert text.rstrip() in str(dag(dag_id).doc_md).rstrip()
        named = re.findall(r"`(sql/\S+\.sql)`", text)
        assert bool(named) == isinstance(task, SQLExecuteQueryOperator), task.task_id
        if not named:
            continue
        # As the UI shows it: the text of the files, with bound parameters and nothing written into it.
        context = {"dag": dag(dag_id), "dag_run": {"run_type": DagRunType.MANUAL}}
        rendered = task.render_template(task.sql, context, dag(dag_id).get_template_env())
        texts = [rendered] if isinstance(rendered, str) else rendered
        # A task that runs several files sets their settings before, and commits.
        shown = [text for text in texts if not text.startswith(("set local ", "commit"))]
        assert shown == [(ROOT / name).read_text().rstrip("\n") for name in named]
