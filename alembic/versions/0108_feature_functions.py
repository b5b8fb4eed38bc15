"""feature_store_as_of and feature_store_at: the feature history on a day, and for pairs of a client and a day.

Why:    a model that is trained on features of today learns from what happened after the day it is asked about. The
        functions select from feature_history and decide nothing. They set no search_path and have no rights of their
        own: either would keep PostgreSQL from planning them as part of the query that calls them. A later revision
        that adds a feature changes both tables, and then calls create_feature_rows.
Locks:  none that a session could wait for; the functions are new.
Undo:   drops the functions and the view.
"""

from sql_file import execute_beside, undo_beside

revision = "0108"
down_revision = "0107"


def upgrade() -> None:
    execute_beside(__file__)


def downgrade() -> None:
    undo_beside(__file__)
