"""The feature store: one row per client.

Why:    it is what a model is trained on. The key makes two rows for one client impossible. A rebuild writes only the
        clients that have changed, so it first collects in staging.clients how each client should look; that table is
        unlogged, because it is filled and emptied within one transaction. An event that starts a rebuild can be lost,
        so the loads that the table was built from are compared with those that are published.
Locks:  none that a session could wait for; the tables are new.
Undo:   drops the tables; one run of the DAG feature_store fills them again.
"""

from alembic import op
from sql_file import execute_beside

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    op.execute("drop view pipeline.stale_tables")
    op.execute("drop table staging.clients, pipeline.feature_store_builds, public.feature_store")
