"""Comments that name the column which a column refers to, and a comment on each column of current_loads.

Why:    the data dictionary and its diagram are written from the comments. Clients have no foreign key, because the
        customer tables hold their files row by row; a comment that ends in a column's name is what tells of the
        relation.
Locks:  SHARE UPDATE EXCLUSIVE on customer_activity, labels, feature_store, pipeline.sales_by_store and
        pipeline.current_loads until the revision is committed: readers and writers pass.
Undo:   brings the earlier comments back.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

CURRENT_LOADS = {
    "load_id": "The load.",
    "table_name": "Table in public.",
    "sale_month": "Month of the sales; of the stores the month whose run loaded them; null for the customer files.",
    "sha256": "SHA-256 of the CSV text: the version of the file.",
    "row_count": "Rows in the file.",
    "last_date": "Latest day in the file; null where it has no days.",
    "total": "Sum of the month''s sales, once the month is aggregated.",
    "started_at": "When the server began to send the file.",
    "finished_at": "When the load was published.",
    "aggregated_at": "When the month was aggregated into monthly_sales.",
}


def upgrade() -> None:
    for table in ("customer_activity", "labels", "feature_store"):
        op.execute(f"comment on column public.{table}.idx is 'Client: customer_profiles.idx.'")
    op.execute("comment on column pipeline.sales_by_store.load_id is 'The load: file_loads.load_id.'")
    for column, meaning in CURRENT_LOADS.items():
        op.execute(f"comment on column pipeline.current_loads.{column} is '{meaning}'")


def downgrade() -> None:
    for table in ("customer_activity", "labels", "feature_store"):
        op.execute(f"comment on column public.{table}.idx is 'Client.'")
    op.execute("comment on column pipeline.sales_by_store.load_id is 'The load: pipeline.file_loads.'")
    for column in CURRENT_LOADS:
        op.execute(f"comment on column pipeline.current_loads.{column} is null")
