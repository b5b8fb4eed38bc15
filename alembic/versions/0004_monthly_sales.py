"""Sales of each store, one row a month.

Why:    the aggregate that DS and MLE read. The key makes a doubled month impossible, and leads with
        the month because a month is what a load deletes and inserts.
Locks:  none that anybody could wait for; the table is new.
Undo:   drops the table; clearing aggregate_month of each run brings its rows back.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table public.monthly_sales (
            store_idx integer not null,
            location text not null,
            sale_month date not null check (extract(day from sale_month) = 1),
            value numeric not null,
            primary key (sale_month, store_idx)
        )
    """)
    for comment in (
        "table public.monthly_sales is"
        " 'Sum of the sales of each store and month; a store without sales in a month has no row for it.'",
        "column public.monthly_sales.store_idx is 'Store: stores.idx.'",
        "column public.monthly_sales.location is 'Where the store was, when the month was last aggregated.'",
        "column public.monthly_sales.sale_month is 'First day of the month.'",
        "column public.monthly_sales.value is 'Exact sum of sales.value.'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    op.execute("drop table public.monthly_sales")
