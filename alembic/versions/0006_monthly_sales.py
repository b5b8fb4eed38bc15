"""monthly_sales: the sales of each store per month, and what each load says of stores.

Why:    the aggregate that DS and MLE read. Its key makes a doubled month impossible and leads with the month, which is
        what a load owns. What one pass over a staged month finds is kept by store and load: the verdict and the
        comparison with other months rest on it, and publishing is verified against its total.
Locks:  none that a session could wait for; the tables and views are new.
Undo:   drops them; clearing publish_month of each run brings the rows back.
"""

from alembic import op
from sql_file import execute_beside

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    op.execute("drop view pipeline.published_sales_by_store")
    op.execute("drop table pipeline.sales_by_store")
    op.execute("drop table public.monthly_sales")
