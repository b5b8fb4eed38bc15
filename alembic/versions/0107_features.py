"""The features of every client on every day, when they were known, and the feature store: the last row of each client.

Why:    a model is trained on pairs of a client and a day, and a training set must be the same when it is made again
        after a corrected file. feature_history holds resolved ranges of days that do not overlap, so a pair is found
        by its key. Rows that a correction replaces stay, with the time in which they were known; they have a partition
        of their own, so that they do not slow down what is known now. A rebuild writes only the difference: it finds
        the clients whose source rows have changed by their hash in pipeline.client_hashes. valid_to and known_to are
        null and not infinity, which drivers cannot read. An event that starts a rebuild can be lost, so the loads that
        the tables were built from are compared with those that are published; loads whose rebuild was rejected are
        recorded, so that the daily run does not fail on them again.
Locks:  none that a session could wait for; the tables are new.
Undo:   drops the tables. One run of the DAG feature_store fills them again, but superseded rows are lost.
"""

from sql_file import execute_beside, undo_beside

revision = "0107"
down_revision = "0106"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
