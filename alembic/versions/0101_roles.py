"""Roles and logins: ds_user, mle_user and their roles, pipeline, the login of the DAGs, and pipeline_owner.

Why:    the three logins are separate so that each has only the privileges of its work. pipeline_owner owns what the
        later revisions create, so that their functions with the rights of their owner have no rights of a superuser;
        nobody can log in as it. A role that the server already has is adopted: its password and memberships are set,
        and that it inherits their privileges. One with privileges on the whole server, or that is a member of others,
        is rejected. ds_user and mle_user have limits, so that neither uses up connections or disk. If the admin is not
        a superuser, a notice has the commands for the limits that only a superuser sets.
Locks:  row locks in the role catalogs, for milliseconds.
Undo:   drops the roles. Those that own or may use something else on the server stay, named in a notice.
"""

import os
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from psycopg2.extensions import encrypt_password
from sql_file import execute_beside, undo_beside

revision = "0101"
down_revision = None

# login: (the environment variable of its password, the default). NAME_FILE names a file with the password instead.
# The default of pipeline is no word of the pipeline's own: Airflow hides passwords in its logs, and would hide the
# schema's name with it.
PASSWORDS = {
    "ds_user": ("DS_USER_PASSWORD", "ds_user"),
    "mle_user": ("MLE_USER_PASSWORD", "mle_user"),
    "pipeline": ("PIPELINE_PASSWORD", "pipeline-laptop"),
}


def upgrade() -> None:
    execute_beside(__file__, owner=None)
    if op.get_context().as_sql:
        op.execute("-- Passwords are not printed. Set those of ds_user, mle_user and pipeline with psql's \\password.")
        return
    connection = op.get_bind()
    # The server may log data definition, and a verifier is enough to guess a short password from.
    if connection.scalar(sa.text("select current_setting('is_superuser')")) == "on":
        connection.execute(sa.text("set local log_statement = none"))
    for login, (variable, default) in PASSWORDS.items():
        # The SCRAM verifier is computed here, so that the server's log never holds the password.
        verifier = encrypt_password(
            password(variable, default), login, connection.connection.driver_connection, "scram-sha-256"
        )
        connection.execute(sa.text(f"alter role {login} password :verifier"), {"verifier": verifier})


def password(variable: str, default: str) -> str:
    if file := os.environ.get(f"{variable}_FILE"):
        return Path(file).read_text().removesuffix("\n")
    return os.environ.get(variable) or default


def downgrade() -> None:
    undo_beside(__file__, owner=None)
