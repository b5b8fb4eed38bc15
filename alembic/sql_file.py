"""Runs the SQL file that stands beside a revision, so that a DBA reads SQL and the linter checks it."""

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from psycopg2.errors import RaiseException


def execute_beside(revision: str, owner: str | None = "pipeline_owner") -> None:
    """Execute the file of the revision's own name up to the line `-- Undo`, in the revision's transaction.

    Args:
        revision: the revision's `__file__`.
        owner: the role that the file is executed as, and that owns what it creates; None: the one that migrates.

    Raises:
        CommandError: the file stopped itself with RAISE EXCEPTION. Alembic prints the message without a traceback.
    """
    _execute(_parts(revision)[0], owner)


def undo_beside(revision: str, owner: str | None = "pipeline_owner") -> None:
    """Execute what follows the line `-- Undo`, as execute_beside does."""
    _execute(_parts(revision)[2], owner)


def _parts(revision: str) -> tuple[str, str, str]:
    return Path(revision).with_suffix(".sql").read_text().partition("\n-- Undo\n")


def _execute(statements: str, owner: str | None) -> None:
    # The last semicolon is Alembic's, where it prints the SQL.
    statements = statements.strip().removesuffix(";")
    if owner:
        op.execute(f"set local role {owner}")
    # A colon before a word would be a bind parameter.
    try:
        op.execute(sa.text(re.sub(r"(?<![:\w]):(?=\w)", r"\:", statements)))
    except sa.exc.InternalError as error:
        if not isinstance(error.orig, RaiseException):
            raise
        raise CommandError(str(error.orig.diag.message_primary)) from None
    if owner:
        op.execute("reset role")
