"""The feature store: one row a client.

Why:    what a model is trained on. The key makes two rows for one client impossible.
Locks:  none that anybody could wait for; the table is new.
Undo:   drops the table; one run of the feature_store DAG fills it again.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table public.feature_store (
            idx integer primary key,
            attr_a integer,
            attr_b text,
            scd_a double precision,
            scd_b integer,
            label integer not null
        )
    """)
    for comment in (
        "table public.feature_store is"
        " 'One row for every client that has a profile, an activity and a label, with its latest activity.'",
        "column public.feature_store.idx is 'Client.'",
        "column public.feature_store.attr_a is 'customer_profiles.attr_a'",
        "column public.feature_store.attr_b is 'customer_profiles.attr_b'",
        "column public.feature_store.scd_a is 'customer_activity.scd_a of the latest activity'",
        "column public.feature_store.scd_b is 'customer_activity.scd_b of the latest activity'",
        "column public.feature_store.label is 'labels.label'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    op.execute("drop table public.feature_store")
