create view public.data_freshness (table_name, status, loaded_at, file_version, up_to, row_count, error) as
with published as (
    select
        files.table_name,
        max(loads.published_at) as loaded_at,
        (array_agg(loads.sha256 order by files.file_month desc nulls last))[1] as file_version,
        max(loads.max_date) as up_to,
        sum(loads.row_count)::bigint as row_count,
        string_agg(
            concat(to_char(files.file_month, 'YYYY-MM: '), files.difference), ' ' order by files.file_month
        ) filter (where files.difference is not null) as difference
    from pipeline.loads
    inner join pipeline.files
        on loads.file_id = files.file_id
    where loads.status = 'published'
    group by files.table_name
),

newest_build as (
    select
        feature_store_builds.built_at,
        feature_store_builds.known_at,
        feature_store_builds.row_count,
        feature_store_builds.history_row_count,
        activity.max_date,
        concat_ws(' ', profiles.sha256, activity.sha256, labels.sha256) as file_version
    from pipeline.feature_store_builds
    left join pipeline.loads as profiles
        on feature_store_builds.profiles_load = profiles.load_id
    left join pipeline.loads as activity
        on feature_store_builds.activity_load = activity.load_id
    left join pipeline.loads as labels
        on feature_store_builds.labels_load = labels.load_id
    order by feature_store_builds.build_id desc
    limit 1
),

known (table_name, loaded_at, file_version, up_to, row_count, difference) as (
    select
        table_name,
        loaded_at,
        file_version,
        up_to,
        -- The file may repeat a row, and the table keeps stores that a newer file lacks.
        case
            when table_name = 'stores' then (select count(*) from public.stores)
            else row_count
        end as row_count,
        difference
    from published

    union all

    select
        'monthly_sales' as table_name,
        loaded_at,
        file_version,
        up_to,
        (
            select count(*)
            from pipeline.sales_by_store
            inner join pipeline.loads
                on sales_by_store.load_id = loads.load_id
            -- A retired month keeps its sums.
            where loads.status in ('published', 'retired')
        ) as row_count,
        difference
    from published
    where table_name = 'sales'

    union all

    select
        'feature_history' as table_name,
        known_at as loaded_at,
        file_version,
        max_date as up_to,
        history_row_count as row_count,
        null as difference
    from newest_build

    union all

    select
        'feature_store' as table_name,
        built_at as loaded_at,
        file_version,
        max_date as up_to,
        row_count,
        null as difference
    from newest_build
)

select
    every_table.table_name,
    case
        when known.loaded_at is null then 'missing'
        when known.difference is not null then 'changed'
        when feature_sources.is_stale then 'stale'
        else 'loaded'
    end as status,
    known.loaded_at,
    known.file_version,
    known.up_to,
    known.row_count,
    known.difference || ' To repair it, load the file again.' as error
from (
    values
    (1, 'customer_profiles'), (2, 'customer_activity'), (3, 'labels'), (4, 'stores'), (5, 'sales'),
    (6, 'monthly_sales'), (7, 'feature_history'), (8, 'feature_store')
) as every_table (position, table_name)
left join known
    on every_table.table_name = known.table_name
left join pipeline.feature_sources
    on every_table.table_name in ('feature_history', 'feature_store')
order by every_table.position;

comment on view public.data_freshness is
'How fresh each table is: when it was last loaded, from which files, up to which day, with how many rows.';
comment on column public.data_freshness.table_name is 'Table in public.';
comment on column public.data_freshness.status is
'loaded; stale if it was built from customer files that have been replaced since; changed if the maintenance found other
rows than were published; missing before the first load.';
comment on column public.data_freshness.loaded_at is
'When a load last published its rows; null before the first. For feature_history, its newest known_from or known_to.';
comment on column public.data_freshness.file_version is
'SHA-256 of the file: for sales and monthly_sales of the newest month''s, for the features of the profiles, the
activity and the labels.';
comment on column public.data_freshness.up_to is 'Latest day in the data; null where it has no days.';
comment on column public.data_freshness.row_count is 'Rows that were loaded; null before the first load.';
comment on column public.data_freshness.error is 'What was changed; null if nothing was.';

create view public.month_status (
    sale_month, status, row_count, total, loaded_at, file_version, newest_attempt_at, error, anomalies
) as
with newest_attempt as (
    select distinct on (loads.file_id)
        loads.*,
        files.file_month,
        files.difference
    from pipeline.files
    inner join pipeline.loads
        on files.file_id = loads.file_id
    where files.table_name = 'sales'
    order by loads.file_id asc, loads.load_id desc
),

-- The stores.csv that the same run loaded after it.
newest_stores as (
    select distinct on (newest_attempt.file_id)
        newest_attempt.file_id as month_file_id,
        loads.*
    from newest_attempt
    inner join pipeline.loads
        on
            newest_attempt.dag_id = loads.dag_id
            and newest_attempt.run_id = loads.run_id
            and newest_attempt.load_id < loads.load_id
    inner join pipeline.files
        on loads.file_id = files.file_id
    where files.table_name = 'stores'
    order by newest_attempt.file_id asc, loads.load_id desc
),

attempt as (
    select
        newest_attempt.file_id,
        newest_attempt.file_month,
        newest_attempt.difference,
        newest_attempt.anomalies,
        newest_attempt.decide_until,
        coalesce(newest_stores.updated_at, newest_attempt.updated_at) as updated_at,
        coalesce(newest_attempt.error, newest_stores.error) as error,
        case
            when 'rejected' in (newest_attempt.status, newest_stores.status) then 'rejected'
            when 'failed' in (newest_attempt.status, newest_stores.status) then 'failed'
            when newest_attempt.decide_until < now() and newest_attempt.status = 'pending_approval' then 'failed'
            when newest_attempt.status in ('pending_approval', 'retired') then newest_attempt.status
            when newest_attempt.wait_until > now() then 'waiting'
            when newest_attempt.status = 'waiting' then 'failed'
            when newest_attempt.difference is not null then 'changed'
            when newest_attempt.status in ('published', 'superseded') then 'loaded'
            when newest_attempt.status = 'loading' and not pipeline.is_running(newest_attempt.load_id) then 'failed'
            when newest_stores.status = 'loading' and not pipeline.is_running(newest_stores.load_id) then 'failed'
            else 'loading'
        end as status
    from newest_attempt
    left join newest_stores
        on newest_attempt.file_id = newest_stores.month_file_id
)

select
    attempt.file_month,
    attempt.status,
    published.row_count,
    published.total,
    published.published_at,
    published.sha256,
    attempt.updated_at,
    case
        when attempt.status = 'changed' then attempt.difference || ' To repair it, load the month again.'
        when attempt.status in ('waiting', 'rejected') then attempt.error
        when attempt.status = 'pending_approval' then attempt.anomalies
        when attempt.status = 'failed' and attempt.error is not null then attempt.error
        when attempt.status = 'failed' and attempt.decide_until is not null
            then concat('Nobody decided until ', attempt.decide_until, '. Clear the run to load the file again.')
        when attempt.status = 'failed' then 'The process that loaded the file was killed.'
    end as error,
    case
        when attempt.status in ('loaded', 'changed')
            then published.anomalies || ' (published by ' || published.decided_by || ')'
        else attempt.anomalies
    end as anomalies
from attempt
left join pipeline.loads as published
    on
        attempt.file_id = published.file_id
        and published.status = 'published'
order by attempt.file_month;

comment on view public.month_status is
'Each month of sales that was ever attempted: how its newest attempt stands, and what is loaded.';
comment on column public.month_status.sale_month is 'First day of the month.';
comment on column public.month_status.status is
'How the newest attempt stands: loaded; loading; waiting for a late file; pending_approval while a person decides on an
unusual file; rejected; failed. Of a loaded month: changed if the maintenance found other rows than were published, and
retired if its rows were taken out. Otherwise the rows of the last good load stay.';
comment on column public.month_status.row_count is 'Sales that are loaded; null if there are none.';
comment on column public.month_status.total is 'Sum of the sales that are loaded.';
comment on column public.month_status.loaded_at is 'When they were published.';
comment on column public.month_status.file_version is 'SHA-256 of their file.';
comment on column public.month_status.newest_attempt_at is 'When the newest attempt came to its status.';
comment on column public.month_status.error is
'Why the newest attempt is waiting, pending, rejected or failed, or what was changed.';
comment on column public.month_status.anomalies is
'What is unusual about the file, and who published it all the same; null if nothing is.';

-- The service data-ready asks as pipeline.
grant select on public.data_freshness, public.month_status to pipeline;
