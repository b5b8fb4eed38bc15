"""Maintenance of sales: statistics of all months together, and months that are taken out and brought back.

Why:    autovacuum does not analyze a partitioned table, and the login pipeline owns none: analyze_sales runs with its
        owner's rights. archive_month takes an old month out of public.sales without touching a row, and keeps it in
        schema archive and its sums in monthly_sales; unarchive_month brings it back. Both are for admin.
Locks:  none that a session could wait for now; the functions are new. When they run: analyze_sales takes SHARE UPDATE
        EXCLUSIVE on sales for seconds; the other two take ACCESS EXCLUSIVE on it for milliseconds, after waiting for it
        for 3 seconds at most.
Undo:   drops the functions, and the schema if no month is archived.
"""

from alembic import op
from sql_file import execute_beside

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    op.execute("drop function pipeline.analyze_sales, pipeline.archive_month, pipeline.unarchive_month")
    op.execute("drop schema archive")
