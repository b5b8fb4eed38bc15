"""The tables that hold the customer files, and the staging tables that say what a file must look like.

Why:    each table holds its file row by row, repeated rows included, so it has no key. A load deletes all rows and
        inserts those of the new file. vacuum_truncate is off, because the truncation at the end of a vacuum locks
        readers out. A rule that one row can break is a constraint of the staging table, so that COPY rejects the row
        with its line number.
Locks:  none that a session could wait for; the tables are new.
Undo:   drops the tables with their rows and what the ledger says of them; the next loads bring the rows back.
"""

from sql_file import execute_beside, undo_beside

revision = "0105"
down_revision = "0104"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
