"""Event triggers: foreign keys onto tables of other owners have the same types, and functions of public no overloads.

Why:    PostgreSQL checks a foreign key with the rights of the owner of the table that is referred to, and casts the
        value before. With a type and a cast of its own, mle_user would have its code run as pipeline_owner, or as the
        admin who made the table. A function of mle_user with the name of one of the pipeline would be called if its
        arguments fit better, and could make calls ambiguous. Event triggers reject both. Only a superuser can create
        them; another admin gets a notice with the commands.
Locks:  none that a session could wait for; the event triggers are new.
Undo:   drops them. Those that a superuser created for another admin stay, named in a notice.
"""

from sql_file import execute_beside, undo_beside

revision = "0103"
down_revision = "0102"


def upgrade() -> None:
    # As the role that migrates, because every role runs the function of an event trigger, admin included.
    execute_beside(__file__, owner=None)


def downgrade() -> None:
    undo_beside(__file__, owner=None)
