"""${message}.

Why:    what a reader of the database gains.
Locks:  which locks, on what, for how long.
Undo:   what the downgrade gives back and what it cannot.
"""

from sql_file import execute_beside, undo_beside

revision = "${up_revision}"
down_revision = "${down_revision}"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
