"""What each login may do in the database and in schema public, now and later.

Why:    privileges are granted once, as defaults of each role that creates objects; no later migration and no person
        grants to readers by hand. Default privileges belong to the role that creates, so each is named: the migrating
        admin, mle_user, and mle_user_role, as which its members create after SET ROLE. Objects that the database
        already has are granted if the migrating role has their owner's rights; others are named in a notice. Every
        privilege that was set is looked up, because GRANT and REVOKE only warn if they have no effect. Functions of
        PostgreSQL that fill the disk or the table of locks are taken from readers; an admin that is not a superuser
        gets a notice with the commands instead.
Locks:  row locks on the database's entry and in the privilege catalogs, for milliseconds.
Undo:   revokes every privilege again, except on objects that were left as they are.
"""

from sql_file import execute_beside, undo_beside

revision = "0102"
down_revision = "0101"


def upgrade() -> None:
    execute_beside(__file__, owner=None)


def downgrade() -> None:
    undo_beside(__file__, owner=None)
