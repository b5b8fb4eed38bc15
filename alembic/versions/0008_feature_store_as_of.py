"""feature_store_as_of(day): the feature store as it would have been built on a day.

Why:    a model that is trained on features of today learns from what happened after the day it is asked about. The
        function chooses each client's activity as the rebuild of feature_store does, among the rows that had begun by
        the day, and ignores an end that had not come yet. From valid_to on a row has ended, and a client without a
        valid row has its last one; so files whose next row begins on valid_to and files whose next row begins the day
        after are both read right, on valid_to too. The function sets no search_path and has no rights of its own:
        either would keep PostgreSQL from planning it as part of the query that calls it.
Locks:  none that a session could wait for; the function is new. From now on a column that it reads can change its
        type only in a migration that drops the function and creates it again.
Undo:   drops the function.
"""

from alembic import op
from sql_file import execute_beside

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    op.execute("drop function public.feature_store_as_of(date)")
