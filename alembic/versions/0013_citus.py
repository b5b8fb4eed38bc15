"""The tables of public on a Citus cluster; on one PostgreSQL server, nothing.

Why:    a cluster holds the rows on several servers, which answer a query together. sales is distributed by store, and
        whatever belongs to a client by client, so that joins and sums need no rows of another server; every server has
        all stores and all of monthly_sales. The ledger is on the coordinator; files are staged there, and leave it
        before they are published. The SQL files are the same for both. A server that gets the extension later is
        migrated down to 0012 and up again. Tables are moved as the superuser who migrates: Citus makes the views of
        others again and gives them back. The SQL that `alembic upgrade --sql` prints is for one server.
Locks:  on a cluster, the exclusive lock of each table while its rows move.
Undo:   brings the rows back to the coordinator, and the functions back to their text in 0008. Citus drops functions
        of others whose bodies are SQL and name a distributed table.
"""

from alembic import context, op
from sql_file import execute_beside

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

HAS_CITUS = "select exists (select from pg_extension where extname = 'citus')"


def upgrade() -> None:
    if answers_yes(HAS_CITUS):
        execute_beside(__file__, owner=None)


def downgrade() -> None:
    if answers_yes(HAS_CITUS):
        execute_beside(__file__, ".downgrade.sql", owner=None)
        execute_beside(__file__.replace("0013_citus", "0008_feature_store_functions"))


def answers_yes(question: str) -> bool:
    """What the database answers; without one, no."""
    return not context.is_offline_mode() and bool(op.get_bind().exec_driver_sql(question).scalar())
