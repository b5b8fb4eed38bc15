"""What a load holds in figures, and how it compares with the loads before it.

Why:    the commonest bad month is a good CSV that is not the month: cut off, a store missing, amounts in another unit.
        sql/loads/compare_month.sql and sql/loads/compare_snapshot.sql keep the figures of every load here and say
        what is unusual. Readers see the figures in public.data_statistics.
Locks:  none that a session could wait for; the tables and views are new.
Undo:   drops them with the figures of all loads. Unusual loads then publish like any other.
"""

from sql_file import execute_beside, undo_beside

revision = "0111"
down_revision = "0110"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
