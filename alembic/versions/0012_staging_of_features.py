"""Where the feature store is put together before it is compared with the one that is read.

Why:    a rebuild writes only the clients that have changed, so it must know what each client should look like
        before it touches feature_store. Unlogged, because it is filled and emptied within one transaction; without
        a key, because the one of feature_store does as well and costs nothing while staging is filled.
Locks:  none that anybody could wait for; the table is new.
Undo:   drops the table.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create unlogged table staging.clients (
            idx integer not null,
            attr_a integer,
            attr_b text,
            scd_a double precision,
            scd_b integer,
            label integer,
            has_activity boolean not null
        )
    """)
    # The default privileges of the schema grant the rest.
    op.execute("grant update on staging.clients to pipeline")
    for comment in (
        "table staging.clients is 'Every client with a profile, as the feature store should show it.'",
        "column staging.clients.idx is 'Client.'",
        "column staging.clients.attr_a is 'customer_profiles.attr_a.'",
        "column staging.clients.attr_b is 'customer_profiles.attr_b.'",
        "column staging.clients.scd_a is 'customer_activity.scd_a of the latest activity.'",
        "column staging.clients.scd_b is 'customer_activity.scd_b of the latest activity.'",
        "column staging.clients.label is 'labels.label; null without one.'",
        "column staging.clients.has_activity is 'Whether there is an activity at all.'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    op.execute("drop table staging.clients")
