-- Lists the months that should be loaded and of which nothing is.
--
-- Reads       pipeline.sources, pipeline.loads, public.month_status
-- Writes      nothing
-- Idempotent  Yes. It only reads.

select
    concat(
        count(*), ' months are overdue',
        ': ' || string_agg(
            concat(
                sources.table_name, to_char(months.first_day, ' YYYY-MM'),
                ' (', concat_ws(': ', coalesce(month_status.status, 'missing'), month_status.error), ')'
            ), '; '
            order by months.first_day, sources.place
        )
    ) as report
from pipeline.sources
cross join
    generate_series(%(first_month)s::timestamp, least(%(last_month)s, localtimestamp), '1 month') as months (first_day)
left join public.month_status
    on
        sources.table_name = month_status.table_name
        and months.first_day = month_status.file_month
where
    sources.is_monthly
    and month_status.loaded_at is null
    and coalesce(month_status.status, 'missing') not in ('retired', 'not_in_source')
    -- From the end of the month, or from the first load of all, so that catching up is not overdue.
    and now() - %(deadline)s::interval > greatest(
        (months.first_day + interval '1 month') at time zone 'UTC',
        (select min(loads.started_at) from pipeline.loads)
    );
