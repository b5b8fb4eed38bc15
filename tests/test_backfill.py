"""make up loads months that catch-up passes over, on a system of its own."""

import subprocess
from pathlib import Path

import pytest
from system import months, started, status


@pytest.mark.slow
def test_an_earlier_first_month_is_loaded_by_a_backfill(tmp_path: Path) -> None:
    settings = {"SOURCE_BASE_URL": "", "SALES_FIRST_MONTH": f"{months(1)[0]:%Y-%m}"}
    with started(tmp_path / "tree", settings) as system:
        assert "sales 1 of 1 months" in system.output
        first, second, _ = months(3)
        system.environment["SALES_FIRST_MONTH"] = f"{first:%Y-%m}"
        done = subprocess.run(
            ["/usr/bin/env", "make", "up"],
            cwd=system.folder,
            env=system.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"started a backfill from {first:%Y-%m} to {second:%Y-%m}" in done.stdout
        assert "sales 3 of 3 months" in done.stdout
        exit_status, printed = status(system)
        assert exit_status == 0
        assert "3 months: 3 loaded" in printed
