"""The ledger: sources, files and loads, and the functions that take a load from one status to the next.

Why:    a reader who doubts a number asks which version of which file it comes from, and an operator asks what became
        of an attempt. The ledger answers both. pipeline.sources says which kinds of files there are, pipeline.files
        which of them were attempted, and pipeline.loads what became of each attempt: its column status is the only
        state of a load, and each change of it is one function in 0104_ledger.sql. A load stages into a table of its own
        in schema staging, so that loads of one file do not wait for each other and a rejected file can be looked at.
        The login pipeline owns nothing: begin_load, create_staged and drop_staged have the rights of pipeline_owner,
        because they create or drop tables; they take a load or a source, never the name of a table.
Locks:  none that a session could wait for; the tables and functions are new.
Undo:   drops the ledger with its history, the functions, and what is staged.
"""

from sql_file import execute_beside, undo_beside

revision = "0104"
down_revision = "0103"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
