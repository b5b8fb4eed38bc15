"""Runs the migrations against DATABASE_URL, one transaction a revision, one upgrade at a time."""

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import URL, create_engine, make_url, pool, text
from sqlalchemy.exc import ArgumentError

DEFAULT_DATABASE_URL = "postgresql+psycopg2://admin:admin@localhost:5432/companydata"
DRIVERS = {"postgres", "postgresql", "postgresql+psycopg2"}
EXPECTED = "Nothing was migrated. Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE."

# Passed at connection time: a SET before context.configure would open an outer transaction, and
# Alembic would then ignore transaction_per_migration.
MIGRATION_TIMEOUTS = "-c lock_timeout=5s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s"

# A second upgrade waits for the first to finish, which may take as many statements as there are revisions.
# Its connection does not report that the schema exists.
GUARD_OPTIONS = "-c lock_timeout=10min -c statement_timeout=10min -c client_min_messages=warning"
GUARD_LOCK = "select pg_advisory_lock(hashtext('companydata.migrations'))"

# Alembic's own table lives where neither ds_user nor mle_user may look; it cannot be made by a
# migration, because Alembic reads it before the first one.
VERSION_SCHEMA = "migrations"


def database_url() -> URL:
    """DATABASE_URL, with psycopg2 as its driver, which the revisions need."""
    try:
        url = make_url((os.environ.get("DATABASE_URL") or DEFAULT_DATABASE_URL).strip())
    except (ArgumentError, ValueError):
        raise SystemExit(f"error: DATABASE_URL is no address of a database. {EXPECTED}") from None
    if url.drivername not in DRIVERS:
        raise SystemExit(f"error: DATABASE_URL begins with {url.drivername}://, which is not supported. {EXPECTED}")
    return url.set(drivername="postgresql+psycopg2")


def run_migrations() -> None:
    """Migrate the database of DATABASE_URL while holding the advisory lock that admits one upgrade at a time."""
    url = database_url()

    guard_engine = create_engine(
        url, poolclass=pool.NullPool, isolation_level="AUTOCOMMIT", connect_args={"options": GUARD_OPTIONS}
    )
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"options": MIGRATION_TIMEOUTS})

    with guard_engine.connect() as guard:
        guard.execute(text(GUARD_LOCK))
        guard.execute(text(f"create schema if not exists {VERSION_SCHEMA}"))
        with engine.connect() as connection:
            context.configure(
                connection=connection,
                version_table_schema=VERSION_SCHEMA,
                transaction_per_migration=True,
            )
            with context.begin_transaction():
                context.run_migrations()


if context.is_offline_mode():
    raise SystemExit(
        "alembic --sql is not supported: revision 0001 adopts the roles that the server already has, so it "
        "must ask the server. Run it against an empty database and read the result with pg_dump instead."
    )

if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
run_migrations()
