"""Maintenance: whether the tables still hold what was published.

Why:    rows that were deleted or altered by hand are noticed by nobody, unless the tables are compared with the ledger,
        as sql/maintenance/compare_tables.sql does.
Locks:  none that a session could wait for; the function is new.
Undo:   drops the function.
"""

from sql_file import execute_beside, undo_beside

revision = "0112"
down_revision = "0111"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
