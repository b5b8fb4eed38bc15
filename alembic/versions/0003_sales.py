"""Sales, range-partitioned by month, with the partitions in a schema of their own.

Why:    a monthly load deletes and inserts one month; in a partition of its own that costs the same at
        month 121 as at month 1, needs no index on date, and keeps dead rows inside that month.
        Readers see one table, public.sales.
Locks:  none that anybody could wait for; the table is new.
Undo:   drops sales with every partition and row; the monthly loads bring them back.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create schema partitions")
    op.execute("""
        create table public.sales (
            idx integer not null,
            value numeric not null,
            date date not null,
            store_idx integer not null
        ) partition by range (date)
    """)
    for comment in (
        "schema partitions is 'Monthly partitions of public.sales; read them through that table.'",
        "table public.sales is"
        " 'Daily sales, exactly as in the monthly sales files. One partition a month: name the dates to read few.'",
        "column public.sales.idx is 'Index of the sale, as in the file.'",
        "column public.sales.value is 'Amount sold that day, exact; negative for a refund.'",
        "column public.sales.date is 'Day of the sale.'",
        "column public.sales.store_idx is 'Store of the sale: stores.idx.'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    op.execute("drop table public.sales")
    op.execute("drop schema partitions")
