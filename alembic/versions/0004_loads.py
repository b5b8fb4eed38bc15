"""The ledger of loads, and the functions that take a load from one outcome to the next.

Why:    a reader who doubts a number asks which version of which file it comes from, and an operator asks what became
        of an attempt. pipeline.loads answers both; its column outcome is the only state of a load, and each change of
        it is one function in 0004_loads.sql. A load stages into a table of its own in schema staging, so that loads of
        one month do not wait for each other and a rejected file can be looked at. Which sources there are is
        in pipeline.sources. The login pipeline owns nothing: the functions that create, analyze or drop a load's tables
        run with the rights of pipeline_owner, and take a load or a source, never the name of a table.
Locks:  none that a session could wait for; the tables and functions are new.
Undo:   drops the ledger with its history, the functions, and what is staged.
"""

from sql_file import execute_beside

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    execute_beside(__file__, ".downgrade.sql")
