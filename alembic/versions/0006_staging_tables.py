"""Staging: where a file lands before anything reads it.

Why:    the loader copies a file here and SQL takes it from here, so a broken file never touches a
        table that people read. Unlogged, because a file can be fetched again; a crash of the server
        empties these tables, which is why each publishing step first counts the staged rows.
        Checks on values are left out on purpose: a bad row can be staged and looked at, and the check
        steps in sql/ refuse it. Sales and stores are staged a month apart, each in a partition of its
        own, so that months load side by side.
Locks:  none that anybody could wait for; the tables are new.
Undo:   drops the schema with whatever is staged.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create schema staging")
    op.execute("comment on schema staging is 'Files as they were downloaded, before anything is published.'")
    for table in ("customer_profiles", "customer_activity", "labels"):
        op.execute(f"create unlogged table staging.{table} (like public.{table} including comments)")
        op.execute(f"comment on table staging.{table} is 'The newest {table}.csv, not yet published.'")
    for table, file in (("sales", "sales file"), ("stores", "stores.csv")):
        op.execute(f"""
            create table staging.{table} (
                like public.{table} including comments,
                sale_month date not null
            ) partition by list (sale_month)
        """)
        op.execute(f"comment on table staging.{table} is 'The {file} that each month loaded last.'")
        op.execute(f"""
            comment on column staging.{table}.sale_month is
                'Month that the file was loaded for: the default of the month''s partition, never in the file.'
        """)


def downgrade() -> None:
    op.execute("drop schema staging cascade")
