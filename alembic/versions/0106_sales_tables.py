"""stores, sales and monthly_sales, and their staging tables.

Why:    sales has one partition per month, so that loading a month again costs the same after ten years, and its dead
        rows stay in one partition; readers see the parent, and begin_load adds the partitions. stores is looked up by
        its index and has a key; sales has none. The key of monthly_sales makes a doubled month impossible and leads
        with the month, which is what a load owns.
Locks:  none that a session could wait for; the tables are new.
Undo:   drops them with their rows and what the ledger says of them; the next loads bring the rows back.
"""

from sql_file import execute_beside, undo_beside

revision = "0106"
down_revision = "0105"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
