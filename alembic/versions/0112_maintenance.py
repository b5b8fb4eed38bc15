"""Maintenance: statistics of all months together, and whether the tables still hold what was published.

Why:    autovacuum does not analyze a partitioned table. Rows that were deleted or altered by hand are noticed by
        nobody, unless the tables are compared with the ledger, as sql/maintenance/compare_tables.sql does.
Locks:  none that a session could wait for; the functions are new. analyze_months takes SHARE UPDATE EXCLUSIVE on sales
        for seconds.
Undo:   drops the functions.
"""

from sql_file import execute_beside, undo_beside

revision = "0112"
down_revision = "0111"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
