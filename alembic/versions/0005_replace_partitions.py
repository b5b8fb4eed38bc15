"""replace_partitions: the staged table of a load becomes the partition that readers see.

Why:    to delete and insert a month writes every row twice and leaves the old rows dead. Here COPY has filled a new
        table; the old partition is dropped and the new table is attached, which moves no row. A reader that holds the
        table for longer than 3 seconds does not stop the load: the same transaction then deletes and inserts the rows.
        It is the only way into the source tables for the login pipeline, which has no other privilege to write them.
Locks:  none that a session could wait for now; the function is new. When it runs: ACCESS EXCLUSIVE on the tables from
        the swap to the end of the transaction, for milliseconds, after waiting for them for 3 seconds at most.
Undo:   drops the function.
"""

from alembic import op
from sql_file import execute_beside

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    op.execute("""
        revoke select on
        public.customer_profiles, public.customer_activity, public.labels, public.stores, public.sales
        from pipeline
    """)
    op.execute("drop function pipeline.replace_partitions, pipeline.distribute_staged")
