create table pipeline.column_profiles (
    load_id bigint references pipeline.loads on delete cascade,
    column_name text,
    sample_rows bigint not null,
    missing_values bigint not null,
    distinct_values bigint not null,
    smallest numeric,
    lower_quartile numeric,
    median numeric,
    upper_quartile numeric,
    largest numeric,
    negative_values bigint,
    negative_total numeric,
    first_day date,
    last_day date,
    longest_gap integer,
    counts jsonb,
    primary key (load_id, column_name)
);

comment on table pipeline.column_profiles is 'What each load holds, by column.';
comment on column pipeline.column_profiles.load_id is 'The load: loads.load_id.';
comment on column pipeline.column_profiles.column_name is 'Column of the file.';
comment on column pipeline.column_profiles.sample_rows is
'Rows that the figures are of: all of the file up to 50,000, above that a sample of about so many.';
comment on column pipeline.column_profiles.missing_values is 'Rows without a value.';
comment on column pipeline.column_profiles.distinct_values is 'Different values.';
comment on column pipeline.column_profiles.smallest is 'Smallest number.';
comment on column pipeline.column_profiles.lower_quartile is
'A quarter of the numbers are no greater. Days are counted from 2000-01-01, here and in the next two columns.';
comment on column pipeline.column_profiles.median is 'Half of the numbers are no greater.';
comment on column pipeline.column_profiles.upper_quartile is 'Three quarters of the numbers are no greater.';
comment on column pipeline.column_profiles.largest is 'Largest number.';
comment on column pipeline.column_profiles.negative_values is 'Rows with a number below 0, such as refunds.';
comment on column pipeline.column_profiles.negative_total is 'Sum of the numbers below 0.';
comment on column pipeline.column_profiles.first_day is 'First day.';
comment on column pipeline.column_profiles.last_day is 'Last day.';
comment on column pipeline.column_profiles.longest_gap is
'Most days in a row without rows, from the first day of the month on; null except for the days of a monthly file.';
comment on column pipeline.column_profiles.counts is 'Rows of each value, where there are few; see pipeline.shown.';

create table pipeline.anomaly_checks (
    load_id bigint references pipeline.loads on delete cascade,
    measure text,
    value numeric not null,
    median numeric,
    low numeric,
    high numeric,
    anomaly text,
    primary key (load_id, measure)
);

comment on table pipeline.anomaly_checks is 'Each measure of a load, and what it was compared with.';
comment on column pipeline.anomaly_checks.load_id is 'The load: loads.load_id.';
comment on column pipeline.anomaly_checks.measure is 'What was measured.';
comment on column pipeline.anomaly_checks.value is 'The value for this load.';
comment on column pipeline.anomaly_checks.median is
'Median of the loads that it was compared with; null without enough.';
comment on column pipeline.anomaly_checks.low is 'Smallest value that is not unusual.';
comment on column pipeline.anomaly_checks.high is 'Greatest value that is not unusual.';
comment on column pipeline.anomaly_checks.anomaly is 'What is unusual, in words; null if nothing is.';

grant select, insert, update, delete on pipeline.column_profiles, pipeline.anomaly_checks to pipeline;

-- $1 is the letter.
create function pipeline.shown(letter text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
return case
    when length($1) > 8 then '(longer text)'
    else (
        select
            coalesce(
                string_agg(
                    case
                        when characters.found ~ '^[0-9A-Za-z\u00C0-\u024F\u0370-\u04FF]$' then characters.found
                        else 'U+' || lpad(upper(to_hex(ascii(characters.found))), 4, '0')
                    end, '' order by characters.place
                ), ''
            )
        from string_to_table($1, null) with ordinality as characters (found, place)
    )
end;

comment on function pipeline.shown(text) is
'A letter of a file, for pages and messages: letters and digits are shown as they are, other characters by their code.
Text of more than 8 characters is not a letter.';

create function pipeline.profile_load(load bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    file constant pipeline.file_rows := (select file_rows from pipeline.file_rows where file_id = this.file_id);
    profiled record;
begin
    -- What is published before anything is compared with it. record_anomalies keeps it, because a row that is updated
    -- here would keep other runs waiting.
    perform set_config(
        'pipeline.compared_with_' || load,
        coalesce((select load_id from pipeline.loads where file_id = this.file_id and status = 'published'), 0)::text, true
    );
    perform pipeline.open_staged(load, 'sample', 50000);
    delete from pipeline.column_profiles where load_id = load;
    -- A day is also a number, that of the days since 2000-01-01; a text is neither.
    for profiled in
        select
            attname,
            typcategory = 'N' as is_number,
            typcategory = 'S' as is_text,
            case typcategory
                when 'N' then format('%I', attname)
                when 'D' then format('(%I - date ''2000-01-01'')', attname)
                else 'null::integer'
            end as number,
            case typcategory when 'D' then format('%I', attname) else 'null::date' end as day,
            case when attname = file.date_column then file.file_month end as first_day
        from pg_attribute
        inner join pg_type
            on pg_attribute.atttypid = pg_type.oid
        where attrelid = this.staged_table::regclass and attnum > 0 and not attisdropped
    loop
        execute format(
            $insert$
            insert into pipeline.column_profiles (
                load_id, column_name, sample_rows, missing_values, distinct_values, smallest, lower_quartile, median,
                upper_quartile, largest, negative_values, negative_total, first_day, last_day, longest_gap, counts
            )
            with figures as (
                select
                    count(*) as row_count,
                    count(%1$I) as value_count,
                    count(distinct %1$I) as distinct_values,
                    (percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (order by %2$s))::numeric[] as quantiles,
                    count(*) filter (where %2$s < 0) as negative_values,
                    sum(%2$s::numeric) filter (where %2$s < 0) as negative_total,
                    min(%3$s) as first_day,
                    max(%3$s) as last_day
                from sample
            ),

            gaps as (
                select day - lag(day, 1, $3 - 1) over (order by day) - 1 as gap
                from (select distinct %3$s as day from sample where $3 is not null) as days
            ),

            counted as (
                select %1$I::text as value, count(*) as row_count from sample where %1$I is not null group by 1
            ),

            listed as (
                select case when $5 then pipeline.shown(value) else value end as shown, sum(row_count) as row_count
                from counted
                group by 1
            )

            select
                $1, $2, row_count, row_count - value_count, distinct_values,
                case when $4 then quantiles[1] end, quantiles[2], quantiles[3], quantiles[4],
                case when $4 then quantiles[5] end, case when $4 then negative_values end,
                case when $4 then negative_total end, first_day, last_day, (select max(gap) from gaps),
                case
                    when distinct_values <= case when $5 then 100 when $4 then 10 else 0 end
                        then (select jsonb_object_agg(shown, row_count) from listed)
                end
            from figures
            $insert$, profiled.attname, profiled.number, profiled.day
        ) using load, profiled.attname, profiled.first_day, profiled.is_number, profiled.is_text;
    end loop;
    drop view sample;
end
$$;

comment on function pipeline.profile_load(bigint) is
'Keeps the figures of each column of a staged load, by its type: of all rows up to 50,000, above that of a sample of
about so many. Values are counted one by one where there are few: up to 100 of a text, up to 10 of a number.';

create view public.data_statistics as
select
    files.table_name,
    files.file_month,
    column_profiles.column_name,
    loads.published_at,
    loads.row_count,
    loads.total,
    column_profiles.sample_rows,
    column_profiles.missing_values,
    column_profiles.distinct_values,
    column_profiles.smallest,
    column_profiles.lower_quartile,
    column_profiles.median,
    column_profiles.upper_quartile,
    column_profiles.largest,
    column_profiles.negative_values,
    column_profiles.negative_total,
    column_profiles.first_day,
    column_profiles.last_day,
    column_profiles.longest_gap,
    column_profiles.counts,
    loads.anomalies,
    loads.decided_by,
    loads.status = 'published' as is_current
from pipeline.column_profiles
inner join pipeline.loads
    on column_profiles.load_id = loads.load_id
inner join pipeline.files
    on loads.file_id = files.file_id
where loads.published_at is not null;

comment on view public.data_statistics is
'Figures of each column of every file that was published, now or before: one row per table, load and column.';
comment on column public.data_statistics.table_name is 'Table in public.';
comment on column public.data_statistics.file_month is 'Month of the file; null where there is one file.';
comment on column public.data_statistics.column_name is 'Column.';
comment on column public.data_statistics.published_at is 'When the file was published.';
comment on column public.data_statistics.is_current is 'Whether its rows are in the table now.';
comment on column public.data_statistics.row_count is 'Rows of the file.';
comment on column public.data_statistics.total is 'Exact sum of its amounts; null where it has none.';
comment on column public.data_statistics.sample_rows is
'Rows that the figures to the right are of: all up to 50,000, above that a sample of about so many.';
comment on column public.data_statistics.missing_values is 'Rows without a value.';
comment on column public.data_statistics.distinct_values is 'Different values.';
comment on column public.data_statistics.smallest is 'Smallest number.';
comment on column public.data_statistics.lower_quartile is
'A quarter of the numbers are no greater. Days are counted from 2000-01-01, here and in the next two columns.';
comment on column public.data_statistics.median is 'Half of the numbers are no greater.';
comment on column public.data_statistics.upper_quartile is 'Three quarters of the numbers are no greater.';
comment on column public.data_statistics.largest is 'Largest number.';
comment on column public.data_statistics.negative_values is 'Rows with a number below 0, such as refunds.';
comment on column public.data_statistics.negative_total is 'Sum of the numbers below 0.';
comment on column public.data_statistics.first_day is 'First day.';
comment on column public.data_statistics.last_day is 'Last day.';
comment on column public.data_statistics.longest_gap is
'Most days in a row without rows, from the first day of the month on; null except for the days of a monthly file.';
comment on column public.data_statistics.counts is
'Rows of each value, where there are few; texts of more than 8 characters are counted together.';
comment on column public.data_statistics.anomalies is 'What was unusual about the file; null if nothing was.';
comment on column public.data_statistics.decided_by is 'Who published it all the same.';

create function pipeline.readable(value numeric, measure text default '')
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
return (
    select
        regexp_replace(
            to_char(round(shown, case when abs(shown) < 1 then 4 else 2 end), 'FM999,999,999,999,999,999,999,990.0099'),
            '[.]00$', ''
        ) || unit
    from (
        select
            value * case when measure like 'share of %' then 100 else 1 end as shown,
            case when measure like 'share of %' then ' %' else '' end as unit
    ) as scaled
);

comment on function pipeline.readable(numeric, text) is
'A number for messages and pages: rounded, with separators; a share in percent.';

create function pipeline.record_anomalies(variadic load_ids bigint[])
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    update pipeline.anomaly_checks
    set
        anomaly = coalesce(
            anomaly,
            concat(
                measure, ': ', pipeline.readable(value, measure), ' (expected: ', pipeline.readable(low, measure),
                ' to ', pipeline.readable(high, measure), ')'
            )
        )
    where load_id = any(load_ids) and not value between low and high;

    -- A decision is asked for again, except on the bytes that were published or approved last.
    with given as (
        select
            loads.load_id,
            newest.decided_by,
            newest.decided_at,
            bool_and(newest.is_same is true) over () as is_known,
            (
                select string_agg(anomaly_checks.anomaly, '; ' order by anomaly_checks.measure)
                from pipeline.anomaly_checks
                where anomaly_checks.load_id = loads.load_id
            ) as anomalies
        from pipeline.loads
        left join
            lateral (
                select
                    earlier.decided_by,
                    earlier.decided_at,
                    earlier.sha256 = loads.sha256 and earlier.status not in ('rejected', 'failed') as is_same
                from pipeline.loads as earlier
                where
                    earlier.file_id = loads.file_id
                    and earlier.load_id <> loads.load_id
                    and (
                        earlier.published_at is not null
                        -- A late answer to the question about a superseded load approves nothing.
                        or (earlier.decided_at <= earlier.updated_at and earlier.sha256 = loads.sha256)
                    )
                order by earlier.request_number desc
                limit 1
            ) as newest
            on true
        where loads.load_id = any($1)
    )

    update pipeline.loads
    set
        anomalies = case when not given.is_known or given.decided_by is not null then given.anomalies end,
        decided_by = case when given.is_known then given.decided_by end,
        decided_at = case when given.is_known then given.decided_at end,
        compared_with = nullif(current_setting('pipeline.compared_with_' || loads.load_id, true), '')::bigint
    from given
    where loads.load_id = given.load_id and loads.status in ('checked', 'pending_approval');
end;

comment on function pipeline.record_anomalies(bigint[]) is
'Says in words which measures of these loads are unusual. Nobody has decided on them,
unless all have the bytes that were published or approved last: that decision holds.';

-- Markdown. The question is what Airflow shows under Required Actions, short enough for its buttons to be in view.
create view pipeline.approval_requests as
with measures as (
    select
        load_id,
        count(anomaly) as anomaly_count,
        string_agg(
            format(
                '| %s | %s |', anomaly,
                pipeline.readable(100 * (value - median) / nullif(abs(median), 0)) || ' %'
            ), E'\n'
            order by measure
        ) filter (where anomaly is not null) as unusual,
        string_agg(
            format(
                '| %s | %s | %s | %s | %s |', case when anomaly is not null then '**unusual**' end, measure,
                pipeline.readable(value, measure), pipeline.readable(median, measure),
                pipeline.readable(low, measure) || ' to ' || pipeline.readable(high, measure)
            ), E'\n'
            order by anomaly is null, measure
        ) as listing
    from pipeline.anomaly_checks
    group by load_id
),

by_group as (
    select
        loads.load_id,
        group_totals.group_key,
        coalesce(min(group_totals.row_count) filter (where group_totals.load_id <> loads.load_id), 0) as published_rows,
        coalesce(min(group_totals.row_count) filter (where group_totals.load_id = loads.load_id), 0) as staged_rows,
        coalesce(min(group_totals.total) filter (where group_totals.load_id <> loads.load_id), 0) as published_total,
        coalesce(min(group_totals.total) filter (where group_totals.load_id = loads.load_id), 0) as staged_total
    from pipeline.loads
    inner join pipeline.loads as published
        on
            loads.file_id = published.file_id
            and loads.load_id <> published.load_id
            and published.status = 'published'
    inner join pipeline.group_totals
        on group_totals.load_id in (loads.load_id, published.load_id)
    group by loads.load_id, group_totals.group_key
),

changes as (
    select
        *,
        (
            select stores.location
            from public.stores
            where stores.idx = by_group.group_key
        ) as location,
        row_number() over (
            partition by load_id
            order by abs(staged_rows - published_rows) desc, abs(staged_total - published_total) desc, group_key
        ) as place
    from by_group
    where (published_rows, published_total) is distinct from (staged_rows, staged_total)
),

group_changes as (
    select
        load_id,
        array[
            '| store | location | rows published | this file | change | total published | this file | change |',
            '| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |'
        ] || array_agg(
            format(
                '| %s | %s | %s | %s | %s | %s | %s | %s |', group_key,
                -- Without what would be markup or a link.
                regexp_replace(
                    left(location, 40),
                    '[^0-9A-Za-z\u00C0-\u024F\u0370-\u04FF\u3040-\u30FF\u4E00-\u9FFF ,''-]', '_', 'g'
                ),
                pipeline.readable(published_rows), pipeline.readable(staged_rows),
                pipeline.readable(100 * (staged_rows - published_rows) / nullif(published_rows, 0.0)) || ' %',
                pipeline.readable(published_total), pipeline.readable(staged_total),
                pipeline.readable(100 * (staged_total - published_total) / nullif(abs(published_total), 0)) || ' %'
            )
            order by place
        ) as lines
    from changes
    where place <= 20
    group by load_id
)

select
    loads.load_id,
    file_rows.table_name,
    file_rows.file_month,
    loads.status,
    loads.error,
    loads.anomalies,
    measures.anomaly_count,
    loads.decided_by,
    file_rows.on_anomaly,
    loads.file_id in (
        select published.file_id
        from pipeline.loads as published
        where published.status in ('published', 'retired')
    ) as replaces_rows,
    concat_ws(
        E'\n\n',
        concat('**', loads.source_url, '** (load ', loads.load_id, '). The log of this task has all measures.'),
        E'| unusual | change |\n| --- | ---: |\n' || measures.unusual,
        array_to_string(group_changes.lines[:5], E'\n')
    ) as question,
    concat_ws(
        E'\n\n',
        E'| | measure | this file | usual or published | expected |\n| --- | --- | ---: | ---: | ---: |\n'
        || measures.listing,
        array_to_string(group_changes.lines, E'\n')
    ) as figures
from pipeline.loads
inner join pipeline.file_rows
    on loads.file_id = file_rows.file_id
inner join measures
    on loads.load_id = measures.load_id
left join group_changes
    on loads.load_id = group_changes.load_id;

comment on view pipeline.approval_requests is
'What a person is asked about a load: what is unusual, and what publishing changes most; the figures are all of it.';

grant select on pipeline.approval_requests to pipeline;

-- Undo

drop view public.data_statistics;

drop view pipeline.approval_requests;

drop function pipeline.profile_load, pipeline.record_anomalies, pipeline.readable, pipeline.shown;

drop table pipeline.anomaly_checks, pipeline.column_profiles;
