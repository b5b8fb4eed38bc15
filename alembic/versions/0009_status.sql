create view public.data_freshness (table_name, state, loaded_at, file_version, up_to, row_count) as
with published as (
    select
        table_name,
        max(published_at) as loaded_at,
        (array_agg(sha256 order by sale_month desc nulls last))[1] as file_version,
        max(last_date) as up_to,
        sum(row_count)::bigint as row_count
    from pipeline.loads
    where outcome = 'published'
    group by table_name
),

newest_build as (
    select
        feature_store_builds.built_at,
        feature_store_builds.known_at,
        feature_store_builds.row_count,
        feature_store_builds.history_row_count,
        activity.last_date,
        concat_ws(' ', profiles.sha256, activity.sha256, labels.sha256) as file_version
    from pipeline.feature_store_builds
    left join pipeline.loads as profiles
        on feature_store_builds.profiles_load = profiles.load_id
    left join pipeline.loads as activity
        on feature_store_builds.activity_load = activity.load_id
    left join pipeline.loads as labels
        on feature_store_builds.labels_load = labels.load_id
    order by feature_store_builds.built_at desc
    limit 1
),

known (table_name, loaded_at, file_version, up_to, row_count) as (
    select
        table_name,
        loaded_at,
        file_version,
        up_to,
        -- The file may repeat a row, and the table keeps stores that a newer file lacks.
        case
            when table_name = 'stores' then (select count(*) from public.stores)
            else row_count
        end as row_count
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
            -- An archived month keeps its sums.
            where loads.outcome in ('published', 'archived')
        ) as row_count
    from published
    where table_name = 'sales'

    union all

    select
        'feature_history' as table_name,
        known_at as loaded_at,
        file_version,
        last_date as up_to,
        history_row_count as row_count
    from newest_build

    union all

    select
        'feature_store' as table_name,
        built_at as loaded_at,
        file_version,
        last_date as up_to,
        row_count
    from newest_build
)

select
    every_table.table_name,
    case
        when known.loaded_at is null then 'missing'
        when stale_tables.table_name is not null then 'stale'
        else 'loaded'
    end as state,
    known.loaded_at,
    known.file_version,
    known.up_to,
    known.row_count
from (
    values
    (1, 'customer_profiles'), (2, 'customer_activity'), (3, 'labels'), (4, 'stores'), (5, 'sales'),
    (6, 'monthly_sales'), (7, 'feature_history'), (8, 'feature_store')
) as every_table (position, table_name)
left join known
    on every_table.table_name = known.table_name
left join pipeline.stale_tables
    on every_table.table_name = stale_tables.table_name
order by every_table.position;

comment on view public.data_freshness is
'How fresh each table is: when it was last loaded, from which files, up to which day, with how many rows.';
comment on column public.data_freshness.table_name is 'Table in public.';
comment on column public.data_freshness.state is
'loaded; stale if it was built from customer files that have been replaced since; missing before the first load.';
comment on column public.data_freshness.loaded_at is
'When a load last published its rows; null before the first. For feature_history, its newest known_from or known_to.';
comment on column public.data_freshness.file_version is
'SHA-256 of the file: for sales and monthly_sales of the newest month''s, for the features of the profiles, the
activity and the labels.';
comment on column public.data_freshness.up_to is 'Latest day in the data; null where it has no days.';
comment on column public.data_freshness.row_count is 'Rows that were loaded; null before the first load.';

create view public.month_status (
    sale_month, state, row_count, total, loaded_at, file_version, newest_attempt_at, problem
) as
with newest_attempt as (
    select distinct on (sale_month)
        sale_month,
        dag_run,
        load_id,
        outcome,
        problem,
        waits_until,
        changed_at
    from pipeline.loads
    where table_name = 'sales'
    order by sale_month asc, load_id desc
),

-- The stores.csv that the same run loaded after it.
newest_stores as (
    select distinct on (newest_attempt.sale_month)
        newest_attempt.sale_month,
        loads.load_id,
        loads.outcome,
        loads.problem,
        loads.changed_at
    from newest_attempt
    inner join pipeline.loads
        on
            newest_attempt.dag_run = loads.dag_run
            and newest_attempt.load_id < loads.load_id
    where loads.table_name = 'stores'
    order by newest_attempt.sale_month asc, loads.load_id desc
),

attempt as (
    select
        newest_attempt.sale_month,
        coalesce(newest_stores.changed_at, newest_attempt.changed_at) as changed_at,
        coalesce(newest_attempt.problem, newest_stores.problem) as problem,
        case
            when 'rejected' in (newest_attempt.outcome, newest_stores.outcome) then 'rejected'
            when 'failed' in (newest_attempt.outcome, newest_stores.outcome) then 'failed'
            when newest_attempt.outcome in ('held', 'archived') then newest_attempt.outcome
            when newest_attempt.waits_until > now() then 'waiting'
            when newest_attempt.outcome = 'waiting' then 'failed'
            when newest_attempt.outcome in ('published', 'superseded') then 'loaded'
            when newest_attempt.outcome = 'loading' and not pipeline.is_running(newest_attempt.load_id) then 'failed'
            when newest_stores.outcome = 'loading' and not pipeline.is_running(newest_stores.load_id) then 'failed'
            else 'loading'
        end as state
    from newest_attempt
    left join newest_stores
        on newest_attempt.sale_month = newest_stores.sale_month
)

select
    attempt.sale_month,
    attempt.state,
    published.row_count,
    published.total,
    published.published_at,
    published.sha256,
    attempt.changed_at,
    case
        when attempt.state = 'failed' then coalesce(attempt.problem, 'The process that loaded the file was killed.')
        when attempt.state in ('waiting', 'held', 'rejected') then attempt.problem
        when attempt.state = 'loaded' then published.oddities || ' (published by ' || published.decided_by || ')'
    end as problem
from attempt
left join pipeline.loads as published
    on
        attempt.sale_month = published.sale_month
        and published.outcome = 'published'
order by attempt.sale_month;

comment on view public.month_status is
'Each month of sales that was ever attempted: how its newest attempt stands, and what is loaded.';
comment on column public.month_status.sale_month is 'First day of the month.';
comment on column public.month_status.state is
'State of the newest attempt: loaded, archived, loading, waiting for a late file, held for a decision because it is odd,
rejected, or failed. The rows of the last good load stay, unless they are archived.';
comment on column public.month_status.row_count is 'Sales that are loaded; null if there are none.';
comment on column public.month_status.total is 'Sum of the sales that are loaded.';
comment on column public.month_status.loaded_at is 'When they were published.';
comment on column public.month_status.file_version is 'SHA-256 of their file.';
comment on column public.month_status.newest_attempt_at is 'When the newest attempt came to its state.';
comment on column public.month_status.problem is
'Why the newest attempt is waiting, held, rejected or failed; of a loaded month, what is odd about it.';

-- The service data-ready asks as pipeline.
grant select on public.data_freshness, public.month_status to pipeline;
