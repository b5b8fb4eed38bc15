"""Copies of the project, to be started apart from the working tree."""

import shutil
import subprocess
from pathlib import Path

from embedded.state import ROOT


def copy_tree(folder: Path) -> None:
    """Copy the project as a clone of it would be, with what is not committed yet."""
    files = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
