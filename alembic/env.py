"""Runs the migrations, one transaction per revision and one upgrade at a time, or prints their SQL (--sql)."""

import os
from contextlib import closing
from logging.config import fileConfig

from alembic import context
from alembic.ddl.postgresql import PostgresqlImpl
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, pool, text
from sqlalchemy.exc import ArgumentError, IntegrityError

DEFAULT_DATABASE_URL = "postgresql+psycopg2://admin:admin@localhost:5432/companydata"
DRIVERS = {"postgres", "postgresql", "postgresql+psycopg2"}
EXPECTED = "Nothing was migrated. Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE."

OLDEST_SERVER = 17
UPGRADE_SERVER = (
    f"This project needs PostgreSQL {OLDEST_SERVER} or later. Nothing was migrated. "
    "Upgrade the server (docs/upgrade.md), or name another one."
)
OTHER_CHECKOUT = (
    "Nothing was migrated. Use the checkout that made the database, which can also take its revisions back "
    "(docs/upgrade.md, Roll back), or make a new database and load the files again."
)

# A role that may create functions in schema public must not have them called by these connections, which have the
# rights of a superuser. A revision names the schema of everything that is not PostgreSQL's own.
SEARCH_PATH = "pg_catalog, pg_temp"

# Passed at connection time: a SET before context.configure would open an outer transaction, and
# Alembic would then ignore transaction_per_migration. Each statement has its limit; a transaction, which is a whole
# revision, has none, whatever the server or the role sets.
MIGRATION_TIMEOUTS = {
    "lock_timeout": "5s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    "transaction_timeout": "0",
}

# A second upgrade waits for the first to finish, which may take as many statements as there are revisions, and during
# which this connection is idle in its transaction. It does not report that the schema exists.
GUARD_SETTINGS = {
    "lock_timeout": "10min",
    "statement_timeout": "10min",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "client_min_messages": "warning",
}

# Alembic's own table lives where neither ds_user nor mle_user may look; it cannot be made by a
# migration, because Alembic reads it before the first one. The same holds for the table whose lock admits one upgrade
# at a time: others cannot take it, because they have no privileges on the table.
VERSION_SCHEMA = "migrations"
CREATE_GUARD = (
    f"create schema if not exists {VERSION_SCHEMA}",
    f"create table if not exists {VERSION_SCHEMA}.guard ()",
)
# The weakest mode that conflicts with itself; pg_dump does not wait for it.
LOCK_GUARD = f"lock table {VERSION_SCHEMA}.guard in share row exclusive mode"

# The same checks in the printed SQL. It is for a database at one revision, which is known when it is printed.
CHECK_PRINTED = """
do $$
declare
    started_at constant text := '{started_at}';
    found text := 'base';
begin
    if current_setting('server_version_num')::integer < {oldest}0000 then
        raise exception 'The server is PostgreSQL %. {upgrade_server}', current_setting('server_version');
    end if;
    if to_regclass('{schema}.alembic_version') is not null then
        select coalesce(string_agg(version_num, ', ' order by version_num), 'base') into found
        from {schema}.alembic_version;
    end if;
    if found <> started_at then
        raise exception 'The database is at revision %, and this script starts at %. Nothing was migrated. Print a '
            'script that starts at % in a checkout that has it, or make a new database and load the files again.',
            found, started_at, found;
    end if;
end
$$
"""


class GuardedImpl(PostgresqlImpl):
    """Locks the guard in each transaction of the printed SQL."""

    __dialect__ = "postgresql"

    def emit_begin(self) -> None:
        """Print the beginning of a transaction."""
        super().emit_begin()
        self.static_output(LOCK_GUARD + self.command_terminator)


def database_url() -> URL:
    """DATABASE_URL, with psycopg2 as its driver, which the revisions need."""
    try:
        url = make_url((os.environ.get("DATABASE_URL") or DEFAULT_DATABASE_URL).strip())
    except (ArgumentError, ValueError):
        raise SystemExit(f"error: DATABASE_URL is not the address of a database. {EXPECTED}") from None
    if url.drivername not in DRIVERS:
        raise SystemExit(f"error: DATABASE_URL begins with {url.drivername}://, which is not supported. {EXPECTED}")
    return url.set(drivername="postgresql+psycopg2")


def options(settings: dict[str, str]) -> dict[str, str]:
    """The arguments of a connection with these settings and the search path."""
    named = {"search_path": SEARCH_PATH.replace(" ", ""), **settings}
    return {"options": " ".join(f"-c {name}={value}" for name, value in named.items())}


def reject_old_server(engine: Engine) -> None:
    """Exit if the server is too old.

    No statement runs: the server names its version when a connection begins. The connection has no timeouts, because
    an old server does not have all of them.
    """
    arguments, address = engine.dialect.create_connect_args(engine.url)
    with closing(engine.dialect.connect(*arguments, **{**address, **options({})})) as connection:
        number, name = connection.info.server_version, connection.info.parameter_status("server_version")
    if number < OLDEST_SERVER * 10000:
        raise SystemExit(f"error: the server is PostgreSQL {name}. {UPGRADE_SERVER}")


def reject_unknown_revisions(connection: Connection) -> None:
    """Exit if the database is at a revision that this checkout does not have."""
    if connection.scalar(text(f"select to_regclass('{VERSION_SCHEMA}.alembic_version')")) is None:
        return
    known = {script.revision for script in context.script.walk_revisions()}
    found = connection.scalars(text(f"select version_num from {VERSION_SCHEMA}.alembic_version"))
    if unknown := sorted(set(found) - known):
        raise SystemExit(
            f"error: the database is at revision {', '.join(unknown)}, which this checkout does not have. "
            f"{OTHER_CHECKOUT}"
        )


def lock_guard(connection: Connection) -> None:
    """Make the guard where it is missing, and lock it until the connection's transaction ends."""
    for statement in CREATE_GUARD:
        try:
            connection.execute(text(statement))
        except IntegrityError:  # another first upgrade has made it at the same moment
            connection.rollback()
            connection.execute(text(statement))
        connection.commit()
    connection.execute(text(LOCK_GUARD))


def run_migrations() -> None:
    """Migrate the database of DATABASE_URL while holding the lock that admits one upgrade at a time."""
    url = database_url()
    guard_engine = create_engine(url, poolclass=pool.NullPool, connect_args=options(GUARD_SETTINGS))
    engine = create_engine(url, poolclass=pool.NullPool, connect_args=options(MIGRATION_TIMEOUTS))

    reject_old_server(guard_engine)
    with guard_engine.connect() as guard:
        reject_unknown_revisions(guard)
        lock_guard(guard)
        reject_unknown_revisions(guard)  # the upgrade that it waited for may be that of another checkout
        with engine.connect() as connection:
            context.configure(
                connection=connection,
                version_table_schema=VERSION_SCHEMA,
                transaction_per_migration=True,
            )
            with context.begin_transaction():
                context.run_migrations()


def print_migrations() -> None:
    """Print the same statements, for a review and for psql; no server is asked."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # the driver's own style would double each percent sign
        version_table_schema=VERSION_SCHEMA,
        transaction_per_migration=True,
    )
    context.execute(
        "-- Run it with psql -v ON_ERROR_STOP=1, and one script at a time: the revision of the database is checked at\n"
        "-- the start only. Each transaction locks migrations.guard, as an upgrade does.\n"
        f"set search_path = {SEARCH_PATH}"  # without quotes, in which a list would be one name
    )
    context.execute(
        CHECK_PRINTED.format(
            started_at=", ".join(sorted(context.get_context().get_current_heads())) or "base",
            oldest=OLDEST_SERVER,
            upgrade_server=UPGRADE_SERVER,
            schema=VERSION_SCHEMA,
        )
    )
    for name, value in MIGRATION_TIMEOUTS.items():
        context.execute(f"set {name} = '{value}'")
    for statement in CREATE_GUARD:
        context.execute(statement)
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    print_migrations()
else:
    run_migrations()
