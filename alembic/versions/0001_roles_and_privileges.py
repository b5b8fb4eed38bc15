"""Roles, logins, and what each may do in schema public, now and later.

Why:    privileges are granted once, here, as defaults of whoever creates a table; no later migration
        and no person grants by hand. A role that the server already has is adopted: its password and
        memberships are set, nothing else of it is touched.
Locks:  row locks in the role catalogs and on the database's entry, for milliseconds; no table exists yet.
Undo:   takes every privilege back and drops the four roles. A login and its role stay, named in a
        notice, when either still owns something or another database of the server uses them.
"""

import os

from alembic import op
from roles import create_role_unless_it_exists, drop_roles_unless_they_are_needed, set_password

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# login: (its role, the environment variable that overrides its password)
LOGINS = {
    "ds_user": ("ds_user_role", "DS_USER_PASSWORD"),
    "mle_user": ("mle_user_role", "MLE_USER_PASSWORD"),
}

# Default privileges belong to the role that creates an object, so each role that may create is named.
# A member of mle_user_role creates as that role after SET ROLE.
CREATORS = ("current_user", "mle_user", "mle_user_role")


def upgrade() -> None:
    for login, (role, password_variable) in LOGINS.items():
        create_role_unless_it_exists(role, "nologin")
        create_role_unless_it_exists(login, "login")
        set_password(login, os.environ.get(password_variable) or login)
        op.execute(f"grant {role} to {login}")

    # FOR ROLE mle_user needs membership, which CREATEROLE alone does not give from PostgreSQL 16 on.
    # It also makes admin the manager of every table that mle_user creates.
    op.execute("""
        do $$
        begin
            if not pg_has_role(current_user, 'mle_user', 'usage') then
                grant mle_user to current_user;
            end if;
        end
        $$
    """)

    op.execute("""
        do $$
        begin
            execute format('revoke temporary on database %I from public', current_database());
            execute format('grant connect on database %I to ds_user_role, mle_user_role', current_database());
            execute format('grant temporary on database %I to mle_user_role', current_database());
        end
        $$
    """)
    op.execute("revoke create on schema public from public")
    op.execute("grant usage on schema public to ds_user_role")
    op.execute("grant all on schema public to mle_user_role")

    op.execute("grant select on all tables in schema public to ds_user_role")
    op.execute("grant all on all tables in schema public to mle_user_role")
    op.execute("grant all on all sequences in schema public to mle_user_role")
    op.execute("grant all on all routines in schema public to mle_user_role")
    for creator in CREATORS:
        defaults = f"alter default privileges for role {creator} in schema public"
        op.execute(f"{defaults} grant select on tables to ds_user_role")
        op.execute(f"{defaults} grant all on tables to mle_user_role")
        op.execute(f"{defaults} grant all on sequences to mle_user_role")
        op.execute(f"{defaults} grant all on routines to mle_user_role")


def downgrade() -> None:
    for creator in CREATORS:
        defaults = f"alter default privileges for role {creator} in schema public"
        op.execute(f"{defaults} revoke all on tables from ds_user_role, mle_user_role")
        op.execute(f"{defaults} revoke all on sequences from mle_user_role")
        op.execute(f"{defaults} revoke all on routines from mle_user_role")
    op.execute("revoke all on all tables in schema public from ds_user_role, mle_user_role")
    op.execute("revoke all on all sequences in schema public from mle_user_role")
    op.execute("revoke all on all routines in schema public from mle_user_role")
    op.execute("revoke all on schema public from ds_user_role, mle_user_role")
    op.execute("""
        do $$
        begin
            execute format('revoke all on database %I from ds_user_role, mle_user_role', current_database());
            execute format('grant temporary on database %I to public', current_database());
        end
        $$
    """)
    for login, (role, _) in LOGINS.items():
        drop_roles_unless_they_are_needed(role, login)
