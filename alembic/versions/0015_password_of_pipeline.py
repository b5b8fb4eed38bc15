"""A default password of pipeline that is no word of ours.

Why:    Airflow hides passwords in its logs wherever they stand. As long as the password was the login's name, every
        "pipeline.file_loads" in a message came out as "***.file_loads". PIPELINE_PASSWORD is set again as it is; only
        where it is unset the password changes, and AIRFLOW_CONN_OPERATIONAL_DB has to change with it.
Locks:  a row lock in the role catalog, for milliseconds. Sessions that are open go on.
Undo:   nothing: a password is the server's, whose other databases may use it.
"""

import os

from roles import set_password

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    set_password("pipeline", os.environ.get("PIPELINE_PASSWORD") or "pipeline-laptop")


def downgrade() -> None:
    """Leave the password."""
