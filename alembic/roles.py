"""What the revisions that make roles share. A role that the server already has is adopted, not made anew."""

import sqlalchemy as sa
from alembic import op
from psycopg2.extensions import encrypt_password


def create_role_unless_it_exists(role: str, attribute: str) -> None:
    """Make a role, or take the one that is there unless it is mighty; `attribute` is login or nologin."""
    op.execute(f"""
        do $$
        begin
            if not exists (select from pg_catalog.pg_roles where rolname = '{role}') then
                create role {role};
            elsif exists (
                select from pg_catalog.pg_roles
                where
                    rolname = '{role}'
                    and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)
            ) then
                raise exception 'the server has a role {role} with rights over the whole server, which this'
                    ' database''s {role} must not have; nothing was migrated. Take the rights away with'
                    ' ALTER ROLE {role} NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS, or rename'
                    ' the role; then run the migration again';
            end if;
            alter role {role} {attribute};
        end
        $$
    """)


def set_password(login: str, password: str) -> None:
    """Set the password as a SCRAM verifier made here, so that the server's log never holds it in clear."""
    connection = op.get_bind()
    verifier = encrypt_password(password, login, connection.connection.driver_connection, "scram-sha-256")
    connection.execute(sa.text(f"alter role {login} password :verifier"), {"verifier": verifier})


def drop_roles_unless_they_are_needed(*roles: str) -> None:
    """Drop the roles together: where one of them still serves something on the server, all of them stay."""
    drops = "\n".join(f"drop role {role};" for role in roles)
    op.execute(f"""
        do $$
        begin
            {drops}
        exception when dependent_objects_still_exist then
            raise notice '{", ".join(roles)}: kept, for they own or may use something on this server';
        end
        $$
    """)
