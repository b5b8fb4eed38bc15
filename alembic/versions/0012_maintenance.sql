create schema archive;

comment on schema archive is
'Months that pipeline.archive_month took out of public.sales: one table per month, as the partition was.';

create function pipeline.analyze_sales()
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Each load has analyzed its own partition. Before PostgreSQL 18 all partitions are read again.
    execute 'analyze '
    || case when current_setting('server_version_num')::integer >= 180000 then 'only ' else '' end
    || 'public.sales';
end
$$;

comment on function pipeline.analyze_sales() is 'Renews the statistics of all months of sales together.';

revoke execute on function pipeline.analyze_sales() from public;

grant execute on function pipeline.analyze_sales() to pipeline;

create function pipeline.archive_month(month date)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
    this pipeline.loads;
begin
    perform pipeline.lock_file('sales', month);
    select * into this
    from pipeline.loads
    where table_name = 'sales' and sale_month = month and outcome = 'published';
    if this.load_id is null then
        perform pipeline.reject(format(
            '%s is not a month that is loaded, so nothing was archived. month_status shows the months; a month is'
            ' named by its first day.', month
        ));
    end if;

    -- What an earlier load of the month has left there is superseded.
    execute format('drop table if exists archive.%I', this.partition_name);
    execute format('alter table public.sales detach partition partitions.%I', this.partition_name);
    execute format('alter table partitions.%I set schema archive', this.partition_name);
    update pipeline.loads set outcome = 'archived', changed_at = clock_timestamp() where load_id = this.load_id;
    return format('%s rows are in archive.%s', this.row_count, this.partition_name);
end
$$;

comment on function pipeline.archive_month(date) is
'Takes a month out of public.sales and keeps its rows in schema archive. monthly_sales keeps the sums.';

create function pipeline.unarchive_month(month date)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3s'
as $$
declare
    this pipeline.loads;
    next_month constant date := month + interval '1 month';
begin
    perform pipeline.lock_file('sales', month);
    select * into this
    from pipeline.loads
    where table_name = 'sales' and sale_month = month and outcome = 'archived';
    if this.load_id is null then
        perform pipeline.reject(format(
            '%s is not a month that is archived, so nothing was changed. month_status shows the months; a month is'
            ' named by its first day.', month
        ));
    elsif to_regclass('archive.' || this.partition_name) is null then
        perform pipeline.reject(format(
            'The table archive.%s does not exist, so nothing was changed. Restore it with pg_restore, or load the month'
            ' again.', this.partition_name
        ));
    end if;

    -- The rows are read for this constraint, and not again while readers of sales wait.
    execute format(
        'alter table archive.%I add constraint "the date is in the month" check (date >= %L and date < %L)',
        this.partition_name, month, next_month
    );
    -- An attempt to load the month has left an empty partition.
    execute format('drop table if exists partitions.%I', this.partition_name);
    execute format('alter table archive.%I set schema partitions', this.partition_name);
    execute format(
        'alter table public.sales attach partition partitions.%I for values from (%L) to (%L)',
        this.partition_name, month, next_month
    );
    execute format('alter table partitions.%I drop constraint "the date is in the month"', this.partition_name);
    update pipeline.loads set outcome = 'published', changed_at = clock_timestamp() where load_id = this.load_id;
    return format('%s rows are in public.sales again', this.row_count);
end
$$;

comment on function pipeline.unarchive_month(date) is 'Brings a month back that archive_month took out.';
