"""The tables that hold the source files: customer_profiles, customer_activity, labels, stores, sales.

Why:    each holds its file row by row, repeated rows included; only stores is looked up by its index and has a key.
        sales has one partition per month, and each customer table has one partition for all rows, because a load
        replaces a partition by the table that it staged: no row is written twice. Partitions are in a schema of
        their own; readers see the parents. A rule that one row can break is a constraint, so that COPY rejects the
        row with its line number.
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
