"""The tables that hold the source files, and the staging tables that say what a file must look like.

Why:    each table holds its file row by row, repeated rows included; only stores is looked up by its index and has a
        key. A load deletes the rows of its file and inserts the new ones. sales has one partition per month, so that
        loading a month again costs the same after ten years, and its dead rows stay in one partition; readers see the
        parent. vacuum_truncate is off, because the truncation at the end of a vacuum locks readers out. A rule that one
        row can break is a constraint, so that COPY rejects the row with its line number.
Locks:  none that a session could wait for; the tables are new.
Undo:   drops the tables with their rows, which the next loads bring back.
"""

from alembic import op
from sql_file import execute_beside

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    op.execute("drop table public.sales, public.stores, public.labels, public.customer_activity")
    op.execute("drop table public.customer_profiles")
    op.execute("drop schema partitions")
    op.execute("drop schema staging cascade")
