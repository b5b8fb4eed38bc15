"""${message}.

Why:    what a reader of the database gains.
Locks:  which locks, on what, for how long.
Undo:   what the downgrade gives back and what it cannot.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else 'op.execute("")'}


def downgrade() -> None:
    ${downgrades if downgrades else 'op.execute("")'}
