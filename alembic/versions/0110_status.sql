create view pipeline.newest_attempts as
with newest_attempt as (
    select distinct on (loads.file_id)
        loads.*,
        files.table_name,
        files.file_month,
        files.difference,
        files.compared_at
    from pipeline.files
    inner join pipeline.loads
        on files.file_id = loads.file_id
    order by loads.file_id asc, loads.load_id desc
),

-- The first month that the source had a file of: a month without one is a gap only after it.
first_file as (
    select
        files.table_name,
        min(files.file_month) as file_month
    from pipeline.files
    inner join pipeline.loads
        on files.file_id = loads.file_id
    where loads.requested_at is not null
    group by files.table_name
),

-- Another file that the run of a month loaded after it, such as the list of stores.
newest_other as (
    select distinct on (newest_attempt.file_id)
        loads.*,
        newest_attempt.file_id as month_file_id
    from newest_attempt
    inner join pipeline.loads
        on
            newest_attempt.dag_id = loads.dag_id
            and newest_attempt.run_id = loads.run_id
            and newest_attempt.load_id < loads.load_id
            and newest_attempt.file_id <> loads.file_id
    where newest_attempt.file_month is not null
    order by newest_attempt.file_id asc, loads.load_id desc
),

attempt as (
    select
        newest_attempt.file_id,
        newest_attempt.table_name,
        newest_attempt.file_month,
        newest_attempt.difference,
        newest_attempt.compared_at,
        newest_attempt.anomalies,
        newest_attempt.decide_until,
        greatest(newest_attempt.updated_at, newest_other.updated_at) as updated_at,
        coalesce(newest_attempt.error, newest_other.error) as error,
        case
            when 'rejected' in (newest_attempt.status, newest_other.status) then 'rejected'
            when 'failed' in (newest_attempt.status, newest_other.status) then 'failed'
            when newest_attempt.decide_until < now() and newest_attempt.status = 'pending_approval' then 'failed'
            when newest_attempt.status = 'not_in_source' and first_file.file_month < newest_attempt.file_month
                then 'rejected'
            when newest_attempt.status in ('pending_approval', 'retired', 'not_in_source') then newest_attempt.status
            when newest_attempt.wait_until > now() then 'waiting'
            when newest_attempt.status = 'waiting' then 'failed'
            when newest_attempt.difference is not null then 'changed'
            when newest_attempt.status in ('published', 'superseded') then 'loaded'
            when newest_attempt.status = 'loading' and not pipeline.is_running(newest_attempt.load_id) then 'failed'
            when newest_other.status = 'loading' and not pipeline.is_running(newest_other.load_id) then 'failed'
            else 'loading'
        end as status
    from newest_attempt
    left join newest_other
        on newest_attempt.file_id = newest_other.month_file_id
    left join first_file
        on newest_attempt.table_name = first_file.table_name
)

select
    *,
    case
        when status in ('waiting', 'not_in_source', 'rejected') then error
        when status = 'pending_approval' then anomalies
        when status = 'failed' and error is not null then error
        when status = 'failed' and decide_until is not null
            then concat('Nobody decided until ', decide_until, '. Clear the run to load the file again.')
        when status = 'failed' then 'The process that loaded the file was killed.'
    end as reason
from attempt;

comment on view pipeline.newest_attempts is
'How the newest attempt at each file stands, and why, as month_status and data_freshness show it.';

create view public.data_freshness as
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

-- A retired month keeps its sums.
group_counts as (
    select
        files.table_name,
        count(*) as row_count
    from pipeline.group_totals
    inner join pipeline.loads
        on group_totals.load_id = loads.load_id
    inner join pipeline.files
        on loads.file_id = files.file_id
    where loads.status in ('published', 'retired')
    group by files.table_name
),

every_table as (
    select
        table_name,
        table_name as source_name,
        is_monthly,
        is_monthly as is_of_month,
        is_monthly or is_cumulative as is_loaded_with_months,
        place
    from pipeline.sources

    union all

    select
        derived.table_name,
        sources.table_name as source_name,
        false as is_monthly,
        sources.is_monthly as is_of_month,
        sources.is_monthly as is_loaded_with_months,
        case when sources.is_monthly then sources.place else 1000 end + derived.number * 0.1 as place
    from pipeline.sources
    cross join lateral unnest(sources.derived_tables) with ordinality as derived (table_name, number)
)

select
    every_table.table_name,
    every_table.is_monthly,
    every_table.is_loaded_with_months,
    case
        when features.status is not null then features.status
        when attempt.status is not null then attempt.status
        when published.table_name is null then 'missing'
        when published.difference is not null then 'changed'
        else 'loaded'
    end as status,
    coalesce(features.loaded_at, published.loaded_at) as loaded_at,
    coalesce(features.file_version, published.file_version) as file_version,
    coalesce(features.up_to, published.up_to) as up_to,
    case
        when features.status is not null then features.row_count
        when every_table.is_of_month and not every_table.is_monthly then group_counts.row_count
        else published.row_count
    end as row_count,
    coalesce(
        attempt.reason, published.difference || ' To repair it, load the file again.', features.error
    ) as error
from every_table
left join published
    on
        every_table.source_name = published.table_name
        and (every_table.is_of_month or every_table.source_name = every_table.table_name)
left join group_counts
    on every_table.source_name = group_counts.table_name
-- What ended without a publication; month_status shows that of a month.
left join pipeline.newest_attempts as attempt
    on
        every_table.table_name = attempt.table_name
        and not every_table.is_loaded_with_months
        and attempt.status in ('pending_approval', 'rejected', 'failed')
left join pipeline.feature_freshness as features
    on every_table.table_name = features.table_name
order by every_table.place;

comment on view public.data_freshness is
'How fresh each table is: when it was last loaded, from which files, up to which day, with how many rows.';
comment on column public.data_freshness.table_name is 'Table in public.';
comment on column public.data_freshness.status is
'loaded; stale if it was built from customer files that have been replaced since; changed if the maintenance found other
rows than were published; missing before the first load. Of a customer file, pending_approval, rejected or failed if its
newest attempt is: the rows of the last good load stay.';
comment on column public.data_freshness.loaded_at is
'When a load last published its rows; null before the first. For feature_history, its newest known_from or known_to.';
comment on column public.data_freshness.file_version is
'SHA-256 of the file: of the newest month''s, and for the features of all customer files.';
comment on column public.data_freshness.up_to is 'Latest day in the data; null where it has no days.';
comment on column public.data_freshness.row_count is
'Rows of the published files, or rows that were built; null before the first load.';
comment on column public.data_freshness.error is
'Why it is not loaded or stays stale, or what was changed; null if nothing is.';
comment on column public.data_freshness.is_monthly is 'Whether it has a file per month; month_status shows each.';
comment on column public.data_freshness.is_loaded_with_months is
'Whether it changes when a month is loaded, and so is missing before the first one.';

create view public.month_status as
select
    attempt.table_name,
    attempt.file_month,
    attempt.status,
    published.row_count,
    published.total,
    published.published_at as loaded_at,
    published.sha256 as file_version,
    case when attempt.status = 'changed' then attempt.compared_at else attempt.updated_at end as newest_attempt_at,
    case
        when attempt.status = 'changed' then attempt.difference || ' To repair it, load the file again.'
        else attempt.reason
    end as error,
    case
        when attempt.status in ('loaded', 'changed')
            then published.anomalies || ' (published by ' || published.decided_by || ')'
        else attempt.anomalies
    end as anomalies
from pipeline.newest_attempts as attempt
left join pipeline.loads as published
    on
        attempt.file_id = published.file_id
        and published.status = 'published'
where attempt.file_month is not null
order by attempt.table_name, attempt.file_month;

comment on view public.month_status is
'Each monthly file that was ever attempted: how its newest attempt stands, and what is loaded.';
comment on column public.month_status.table_name is 'Table in public.';
comment on column public.month_status.file_month is 'First day of the month.';
comment on column public.month_status.status is
'How the newest attempt stands: loaded; loading; waiting for a late file; pending_approval while a person decides on an
unusual file; rejected; failed; not_in_source if it lies before the first month that the source has. Of a loaded month:
changed if the maintenance found other rows than were published, and retired if its rows were taken out. Otherwise the
rows of the last good load stay.';
comment on column public.month_status.row_count is 'Rows that are loaded; null if there are none.';
comment on column public.month_status.total is 'Sum of their amounts.';
comment on column public.month_status.loaded_at is 'When they were published.';
comment on column public.month_status.file_version is 'SHA-256 of their file.';
comment on column public.month_status.newest_attempt_at is
'When it came to this status; for a changed month, when that was found.';
comment on column public.month_status.error is
'Why the newest attempt is waiting, pending, rejected, failed or not in the source, or what was changed.';
comment on column public.month_status.anomalies is
'What is unusual about the file, and who published it all the same; null if nothing is.';

-- The service data-ready asks as pipeline.
grant select on public.data_freshness, public.month_status to pipeline;

-- Undo

drop view public.month_status, public.data_freshness, pipeline.newest_attempts;
