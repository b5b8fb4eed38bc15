"""The customer tables and stores, as they are in the source files.

Why:    customer_profiles, customer_activity and labels hold their files row by row, repeated rows
        included, so they have no key; stores is looked up by its index and has one.
Locks:  none that anybody could wait for; the tables are new.
Undo:   drops the four tables with their rows, which the next load brings back.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table public.customer_profiles (
            idx integer not null,
            attr_a integer,
            attr_b text,
            attr_c text
        )
    """)
    op.execute("""
        create table public.customer_activity (
            idx integer not null,
            valid_from date not null,
            valid_to date,
            scd_a double precision,
            scd_b integer
        )
    """)
    op.execute("""
        create table public.labels (
            idx integer not null,
            label integer not null check (label in (0, 1))
        )
    """)
    op.execute("""
        create table public.stores (
            idx integer primary key,
            location text not null
        )
    """)
    for comment in (
        "table public.customer_profiles is 'Profile of each client, exactly as in customer_profiles.csv.'",
        "column public.customer_profiles.idx is 'Client.'",
        "column public.customer_profiles.attr_a is 'Profile attribute a, a whole number.'",
        "column public.customer_profiles.attr_b is 'Profile attribute b, one letter.'",
        "column public.customer_profiles.attr_c is"
        " 'Profile attribute c, up to three characters; not part of the feature store.'",
        "table public.customer_activity is"
        " 'Activity of each client with the days on which it was valid, exactly as in customer_activity.csv.'",
        "column public.customer_activity.idx is 'Client.'",
        "column public.customer_activity.valid_from is 'First day on which the row is valid.'",
        "column public.customer_activity.valid_to is"
        " 'Day on which the row stopped being valid; null for the row that is current.'",
        "column public.customer_activity.scd_a is 'Slowly changing attribute a.'",
        "column public.customer_activity.scd_b is 'Slowly changing attribute b, a whole number.'",
        "table public.labels is 'What the model learns to predict, exactly as in labels.csv.'",
        "column public.labels.idx is 'Client.'",
        "column public.labels.label is 'The label, 0 or 1.'",
        "table public.stores is 'The stores of the newest stores.csv; every monthly load refreshes it.'",
        "column public.stores.idx is 'Store.'",
        "column public.stores.location is 'Where the store is.'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    op.execute("drop table public.stores, public.labels, public.customer_activity, public.customer_profiles")
