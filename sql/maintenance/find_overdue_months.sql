-- Lists the months that should be loaded and of which nothing is.
--
-- Reads       pipeline.sources, pipeline.loads, public.month_status
-- Writes      nothing
-- Idempotent  Yes. It only reads.
--
-- The deadline counts from the end of a month, or from the first load of all, so that catching up is not overdue.

with due as (
    select
        months.first_day::date as file_month,
        greatest((months.first_day + interval '1 month') at time zone 'UTC', min(loads.started_at)) as since
    from
        generate_series(
            %(first_month)s::timestamp, least(%(last_month)s::timestamp, now()::timestamp), '1 month'
        ) as months (first_day)
    left join pipeline.loads
        on true
    group by months.first_day
)

select
    concat(
        count(*), ' months are overdue',
        ': ' || string_agg(
            concat(
                sources.table_name, to_char(due.file_month, ' YYYY-MM'),
                ' (', concat_ws(': ', coalesce(month_status.status, 'missing'), month_status.error), ')'
            ), '; '
            order by due.file_month, sources.place
        )
    ) as report
from pipeline.sources
cross join due
left join public.month_status
    on
        sources.table_name = month_status.table_name
        and due.file_month = month_status.file_month
where
    sources.is_monthly
    and now() - due.since > %(deadline)s::interval
    and month_status.loaded_at is null
    and month_status.status is distinct from 'retired';
