"""Runs the migrations, one transaction per revision and one upgrade at a time, or prints their SQL (--sql)."""

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
MIGRATION_TIMEOUTS = {"lock_timeout": "5s", "statement_timeout": "60s", "idle_in_transaction_session_timeout": "60s"}

# A second upgrade waits for the first to finish, which may take as many statements as there are revisions.
# Its connection does not report that the schema exists.
GUARD_OPTIONS = "-c lock_timeout=10min -c statement_timeout=10min -c client_min_messages=warning"
GUARD_LOCK = "select pg_advisory_lock(hashtext('companydata.migrations'))"

# Alembic's own table lives where neither ds_user nor mle_user may look; it cannot be made by a
# migration, because Alembic reads it before the first one.
VERSION_SCHEMA = "migrations"
CREATE_VERSION_SCHEMA = f"create schema if not exists {VERSION_SCHEMA}"


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
    options = " ".join(f"-c {name}={value}" for name, value in MIGRATION_TIMEOUTS.items())
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"options": options})

    with guard_engine.connect() as guard:
        guard.execute(text(GUARD_LOCK))
        guard.execute(text(CREATE_VERSION_SCHEMA))
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
    for name, value in MIGRATION_TIMEOUTS.items():
        context.execute(f"set {name} = '{value}'")
    context.execute(GUARD_LOCK)
    context.execute(CREATE_VERSION_SCHEMA)
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    print_migrations()
else:
    run_migrations()
