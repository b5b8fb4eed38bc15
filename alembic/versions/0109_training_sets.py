"""Training sets: a query, the moment whose knowledge it uses, and a hash, so that it can be made again and compared.

Why:    a model is only as good as the proof of what it was trained on. make_training_set runs a query with the rights
        of its caller and records its hash; the table is in schema pipeline and is written by functions with their
        owner's rights, so that ds_user can add rows and do nothing else, and a trigger of mle_user cannot run with
        these rights. The moment is never later than the newest build: what is known after it can still grow.
        repeat_training_set runs a query only for the login that made it, whose rights it was written for.
Locks:  none that a session could wait for; the table, the view and the functions are new.
Undo:   drops them with all that was recorded.
"""

from sql_file import execute_beside, undo_beside

revision = "0109"
down_revision = "0108"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
