"""A source that begins later than the schedule: months before its first file are skipped, a gap after it fails."""

import pytest
from conftest import Database, Files
from support.airflow_runs import AirflowRun
from support.bucket_files import write_month
from support.steps import SALES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow")]

STATES = "select to_char(file_month, 'YYYY-MM'), status from month_status order by file_month"


def test_a_month_before_the_first_file_is_skipped_and_a_gap_after_it_fails(
    database: Database, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the order is in which the months run, for they run side by side."""
    for month in ("2024-01", "2024-04"):
        write_month(files, month)
    # January and April are in the source and not loaded yet.
    ends = {month: AirflowRun(SALES, month) for month in ("2024-03", "2023-12", "2023-11", "2024-02")}
    assert [run.go_on() for run in ends.values()] == ["failed", "success", "success", "failed"]
    assert set(ends["2023-12"].states.values()) == {"skipped"}
    assert "The source has no earlier file of sales either, so the month is skipped." in capsys.readouterr().out
    for month in ("2024-01", "2024-04"):
        assert AirflowRun(SALES, month).go_on() == "success"
    assert database.run(STATES) == [
        ("2023-11", "not_in_source"),
        ("2023-12", "not_in_source"),
        ("2024-01", "loaded"),
        ("2024-02", "rejected"),
        ("2024-03", "rejected"),
        ("2024-04", "loaded"),
    ]
    # An earlier file than the first one makes a gap of what was none.
    write_month(files, "2023-11")
    assert ends["2023-11"].clear() == "success"
    assert database.run(STATES)[:3] == [("2023-11", "loaded"), ("2023-12", "rejected"), ("2024-01", "loaded")]
    assert ends["2023-12"].clear() == "failed"


def test_a_source_without_any_month_fails_with_the_newest_one(
    database: Database, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SALES_LAST_MONTH", "2024-01")
    assert [AirflowRun(SALES, month).go_on() for month in ("2024-01", "2023-12")] == ["failed", "success"]
    assert "The source has no file of sales from 2023-11 (SALES_FIRST_MONTH) on." in capsys.readouterr().out
