"""data_freshness and month_status: what is loaded, for readers and operators.

Why:    DS and MLE do not see the ledger, yet must know from which file the numbers come and whether a month is
        complete. The views read the ledger with their owner's rights.
Locks:  none that a session could wait for; the views are new.
Undo:   drops the views.
"""

from sql_file import execute_beside, undo_beside

revision = "0110"
down_revision = "0109"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
