"""What each login may do in the database and in schema public, now and later.

Why:    privileges are granted once, as defaults of each role that creates objects; no later migration and no person
        grants by hand. Default privileges belong to the role that creates, so each is named: the migrating admin,
        mle_user, and mle_user_role, as which its members create after SET ROLE.
Locks:  row locks on the database's entry and in the privilege catalogs, for milliseconds; no table exists yet.
Undo:   revokes every privilege again.
"""

from sql_file import execute_beside

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    execute_beside(__file__, ".downgrade.sql")
