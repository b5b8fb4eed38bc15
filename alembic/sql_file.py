"""Runs the SQL file that stands beside a revision, so that a DBA reads SQL and the linter checks it."""

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op


def execute_beside(revision: str, suffix: str = ".sql") -> None:
    """Execute the file of the revision's own name, in the revision's transaction.

    Args:
        revision: the revision's `__file__`.
        suffix: `.sql`, or `.downgrade.sql` where the way back takes more than one statement.
    """
    # The last semicolon is Alembic's, where it prints the SQL.
    statements = Path(revision).with_suffix(suffix).read_text().rstrip().removesuffix(";")
    # A colon before a word would be a bind parameter.
    op.execute(sa.text(re.sub(r"(?<![:\w]):(?=\w)", r"\:", statements)))
