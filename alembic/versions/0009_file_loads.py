"""The ledger: which file was loaded when, by which run, with how many rows, and how it ended.

Why:    whoever doubts a number asks which version of the file it came from. A row is written in the same
        transaction as the rows of data it speaks of, so the two never disagree. It also carries a load from
        step to step: only rows that were checked can be published, and only by the run that staged them.
Locks:  none that anybody could wait for; the tables and functions are new.
Undo:   drops the ledger with its history, and the functions.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table pipeline.file_loads (
            load_id bigint generated always as identity primary key,
            table_name text not null,
            sale_month date,
            address text not null,
            etag text,
            last_modified timestamptz,
            bytes bigint,
            sha256 text,
            row_count bigint,
            last_date date,
            total numeric,
            aggregated_at timestamptz,
            dag_run text not null,
            started_at timestamptz not null,
            finished_at timestamptz not null default clock_timestamp(),
            outcome text not null
                check (outcome in ('staged', 'checked', 'published', 'replaced', 'refused', 'failed')),
            problem text
        )
    """)
    # What is staged and not yet published; a table or a month has one such load at most.
    op.execute("""
        create unique index file_loads_waiting on pipeline.file_loads (table_name, coalesce(sale_month, '-infinity'))
        where outcome in ('staged', 'checked')
    """)
    op.execute("""
        create index file_loads_published on pipeline.file_loads (table_name, sale_month, started_at)
        where outcome = 'published'
    """)
    op.execute("""
        create view pipeline.current_loads as
        select distinct on (table_name, case table_name when 'sales' then sale_month end)
            load_id,
            table_name,
            sale_month,
            sha256,
            row_count,
            last_date,
            total,
            started_at,
            finished_at,
            aggregated_at
        from pipeline.file_loads
        where outcome = 'published'
        order by table_name, case table_name when 'sales' then sale_month end, started_at desc
    """)
    op.execute("""
        create table pipeline.feature_store_builds (
            built_at timestamptz primary key default clock_timestamp(),
            row_count bigint not null,
            profiles_load bigint references pipeline.file_loads,
            activity_load bigint references pipeline.file_loads,
            labels_load bigint references pipeline.file_loads
        )
    """)
    # What a load says of its file is written once; only how it went on may change.
    op.execute("grant select, insert on pipeline.file_loads to pipeline")
    op.execute(
        "grant update (outcome, finished_at, problem, last_date, total, aggregated_at)"
        " on pipeline.file_loads to pipeline"
    )
    op.execute("grant select on pipeline.current_loads to pipeline")
    op.execute("grant select, insert on pipeline.feature_store_builds to pipeline")

    op.execute("""
        create function pipeline.require_checked(load bigint, staged_rows bigint)
        returns void
        language plpgsql
        set search_path = pg_catalog, pg_temp
        as $$
        declare
            this pipeline.file_loads;
            is_staged boolean;
            message text;
        begin
            select * into this from pipeline.file_loads where load_id = load;
            -- Numbers are given while staging is locked, so the greatest one is what staging holds.
            is_staged := load = (
                select max(load_id)
                from pipeline.file_loads
                where
                    table_name = this.table_name
                    and sale_month is not distinct from this.sale_month
                    and row_count is not null
            );
            if is_staged and this.outcome in ('checked', 'published') and this.row_count = staged_rows then
                return;
            end if;
            message := case
                when this.outcome is null then
                    'load ' || coalesce(load::text, 'null') || ' is not in pipeline.file_loads'
                when this.outcome = 'refused' then
                    'the load was refused: ' || this.problem
                when this.outcome = 'replaced' or not is_staged then
                    'another run has staged this file since, and publishes it'
                when this.outcome = 'staged' then
                    'the load has not been checked'
                else
                    'the file had ' || this.row_count || ' rows, but staging holds ' || staged_rows
                    || ' (a load that was published before is no longer staged)'
            end;
            raise exception using
                errcode = 'check_violation',
                message = concat(
                    this.address, ': ', message, '. Only a checked load that is still staged can be published, so the',
                    ' tables stay as they were. Clear this run from its staging tasks on.'
                );
        end
        $$
    """)
    op.execute("""
        create function pipeline.is_newest(load bigint)
        returns boolean
        language sql
        stable
        set search_path = pg_catalog, pg_temp
        return not exists (
            select
            from pipeline.file_loads as this
            inner join pipeline.current_loads as published
                on
                    this.table_name = published.table_name
                    and (this.table_name <> 'sales' or this.sale_month = published.sale_month)
                    and this.started_at < published.started_at
            where this.load_id = load
        )
    """)
    op.execute("""
        create function pipeline.mark_published(load bigint)
        returns void
        language plpgsql
        set search_path = pg_catalog, pg_temp
        as $$
        begin
            update pipeline.file_loads
            set
                outcome = 'published',
                problem = case
                    when not pipeline.is_newest(load) then 'not used: a newer file was published before this one'
                end,
                finished_at = clock_timestamp()
            where load_id = load;
        end
        $$
    """)
    op.execute("""
        create function pipeline.report_change(load bigint)
        returns void
        language plpgsql
        set search_path = pg_catalog, pg_temp
        as $$
        declare
            this pipeline.file_loads;
            before pipeline.file_loads;
        begin
            select * into this from pipeline.file_loads where load_id = load;
            if this.problem is not null then
                perform pipeline.report(concat(this.address, ': ', this.problem, '; the table keeps that one'));
                return;
            end if;
            select * into before
            from pipeline.file_loads
            where
                outcome = 'published'
                and problem is null
                and table_name = this.table_name
                and (table_name <> 'sales' or sale_month = this.sale_month)
                and started_at < this.started_at
            order by started_at desc
            limit 1;
            if before.sha256 <> this.sha256 then
                perform pipeline.report(concat(
                    this.address, ' has changed since it was loaded at ', before.started_at,
                    ': rows ', before.row_count, ' -> ', this.row_count,
                    ', total ' || before.total || ' -> ' || this.total,
                    ', SHA-256 ', before.sha256, ' -> ', this.sha256
                ));
            end if;
        end
        $$
    """)
    op.execute("""
        create function pipeline.discard_staged(table_name text, month date)
        returns void
        language plpgsql
        set search_path = pg_catalog, pg_temp
        as $$
        declare
            staged constant text := format(
                'staging.%I', concat_ws('_', discard_staged.table_name, to_char(month, 'YYYY_MM'))
            );
            last_outcome text;
        begin
            -- Locked before the ledger is asked: another run may be staging, whose rows are still to be published.
            execute format('lock table %s in access exclusive mode', staged);
            select outcome into last_outcome
            from pipeline.file_loads as loads
            where
                loads.table_name = discard_staged.table_name
                and loads.sale_month is not distinct from month
                and loads.row_count is not null
            order by loads.load_id desc
            limit 1;
            if last_outcome = 'published' then
                execute format('truncate %s', staged);
            end if;
        end
        $$
    """)

    for comment in (
        "table pipeline.file_loads is 'Every load of a source file, one row an attempt, written with its rows.'",
        "column pipeline.file_loads.load_id is 'The load, as its run hands it from step to step.'",
        "column pipeline.file_loads.table_name is 'Table in public that the file is for.'",
        "column pipeline.file_loads.sale_month is 'Month of the run; null for the customer files.'",
        "column pipeline.file_loads.address is 'Where the file was read.'",
        "column pipeline.file_loads.etag is 'ETag that the server sent.'",
        "column pipeline.file_loads.last_modified is 'Last-Modified that the server sent.'",
        "column pipeline.file_loads.bytes is 'Length of the CSV text.'",
        "column pipeline.file_loads.sha256 is 'SHA-256 of the CSV text: the version of the file.'",
        "column pipeline.file_loads.row_count is 'Rows in the file, its header not counted.'",
        "column pipeline.file_loads.last_date is 'Latest day in the file; null where it has no days.'",
        "column pipeline.file_loads.total is 'Sum of the month''s sales, set when the month is aggregated.'",
        "column pipeline.file_loads.aggregated_at is 'When the month was aggregated into monthly_sales.'",
        "column pipeline.file_loads.dag_run is 'DAG and run that loaded the file.'",
        "column pipeline.file_loads.started_at is"
        " 'When the server began to send the file; of a load that failed, when the load began.'",
        "column pipeline.file_loads.finished_at is 'When the load came to its present outcome.'",
        "column pipeline.file_loads.outcome is"
        " 'staged, checked, published; replaced: staged again before it was published; refused: the file breaks the"
        " contract; failed: a network or server fault, tried again.'",
        "column pipeline.file_loads.problem is 'Why the load was refused, failed, or was published without effect.'",
        "view pipeline.current_loads is 'The loads whose rows are in public now: one a table, for sales one a month.'",
        "table pipeline.feature_store_builds is 'Every rebuild of the feature store, and the loads it took.'",
        "column pipeline.feature_store_builds.built_at is 'When.'",
        "column pipeline.feature_store_builds.row_count is 'Clients in the feature store.'",
        "column pipeline.feature_store_builds.profiles_load is 'Load of customer_profiles.'",
        "column pipeline.feature_store_builds.activity_load is 'Load of customer_activity.'",
        "column pipeline.feature_store_builds.labels_load is 'Load of labels.'",
        "function pipeline.require_checked(bigint, bigint) is"
        " 'Fails the transaction unless this load was found good and is what staging holds, all its rows.'",
        "function pipeline.is_newest(bigint) is 'Whether no later load of the same table (and month) was published.'",
        "function pipeline.mark_published(bigint) is 'Notes that this transaction publishes the load.'",
        "function pipeline.report_change(bigint) is"
        " 'Writes into the log of the task how the file differs from the one that was loaded before.'",
        "function pipeline.discard_staged(text, date) is"
        " 'Empties the staging of a table, of a month where it has one, if what it holds is published.'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    for function in (
        "discard_staged(text, date)",
        "report_change(bigint)",
        "mark_published(bigint)",
        "is_newest(bigint)",
        "require_checked(bigint, bigint)",
    ):
        op.execute(f"drop function pipeline.{function}")
    op.execute("drop table pipeline.feature_store_builds")
    op.execute("drop view pipeline.current_loads")
    op.execute("drop table pipeline.file_loads")
