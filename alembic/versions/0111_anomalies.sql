create table pipeline.column_profiles (
    load_id bigint references pipeline.loads,
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
comment on column pipeline.column_profiles.lower_quartile is 'A quarter of the numbers are no greater.';
comment on column pipeline.column_profiles.median is 'Half of the numbers are no greater.';
comment on column pipeline.column_profiles.upper_quartile is 'Three quarters of the numbers are no greater.';
comment on column pipeline.column_profiles.largest is 'Largest number.';
comment on column pipeline.column_profiles.negative_values is 'Rows with a number below 0: in sales.value, refunds.';
comment on column pipeline.column_profiles.negative_total is 'Sum of the numbers below 0.';
comment on column pipeline.column_profiles.first_day is 'First day.';
comment on column pipeline.column_profiles.last_day is 'Last day.';
comment on column pipeline.column_profiles.counts is 'Rows of each value, where there are few; see pipeline.shown.';

create table pipeline.anomaly_checks (
    load_id bigint references pipeline.loads,
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
    profiled record;
begin
    perform pipeline.open_staged(load, 'sample', 50000);
    delete from pipeline.column_profiles where load_id = load;
    for profiled in
        select
            quote_ident(pg_attribute.attname) as name,
            pg_attribute.attname,
            pg_type.typcategory = 'N' as is_number,
            pg_type.typcategory = 'D' as is_day,
            pg_type.typcategory = 'S' as is_text
        from pg_attribute
        inner join pg_type
            on pg_attribute.atttypid = pg_type.oid
        where attrelid = this.staged_table::regclass and attnum > 0 and not attisdropped
    loop
        execute concat(
            'insert into pipeline.column_profiles (load_id, column_name, sample_rows, missing_values, distinct_values',
            case when profiled.is_number then ', smallest, lower_quartile, median, upper_quartile, largest,'
                ' negative_values, negative_total' end,
            case when profiled.is_day then ', first_day, last_day' end,
            ', counts) select $1, $2, row_count, row_count - value_count, distinct_values',
            case when profiled.is_number then ', quantiles[1], quantiles[2], quantiles[3], quantiles[4], quantiles[5],'
                ' negative_values, negative_total' end,
            case when profiled.is_day then ', first_day, last_day' end,
            ', case when distinct_values <= ', case when profiled.is_text then 100 when profiled.is_number then 10 else 0 end,
            ' then (select jsonb_object_agg(shown, shown_rows) from (select ',
            case when profiled.is_text then 'pipeline.shown(value)' else 'value' end,
            ' as shown, sum(value_rows) as shown_rows from (select ', profiled.name, '::text as value,',
            ' count(*) as value_rows from sample where ', profiled.name, ' is not null group by 1) as counted',
            ' group by 1) as listed) end',
            ' from (select count(*) as row_count, count(', profiled.name, ') as value_count',
            ', count(distinct ', profiled.name, ') as distinct_values',
            case when profiled.is_number then format(
                ', (percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (order by %1$s))::numeric[] as quantiles'
                ', count(*) filter (where %1$s < 0) as negative_values'
                ', sum(%1$s) filter (where %1$s < 0) as negative_total', profiled.name
            ) end,
            case when profiled.is_day then format(
                ', min(%1$s) as first_day, max(%1$s) as last_day', profiled.name
            ) end,
            ' from sample) as figures'
        ) using load, profiled.attname;
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
    files.file_month as sale_month,
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
comment on column public.data_statistics.sale_month is 'Month of the file, for sales.';
comment on column public.data_statistics.column_name is 'Column.';
comment on column public.data_statistics.published_at is 'When the file was published.';
comment on column public.data_statistics.is_current is 'Whether its rows are in the table now.';
comment on column public.data_statistics.row_count is 'Rows of the file.';
comment on column public.data_statistics.total is 'Exact sum of the sales of the file.';
comment on column public.data_statistics.sample_rows is
'Rows that the figures to the right are of: all up to 50,000, above that a sample of about so many.';
comment on column public.data_statistics.missing_values is 'Rows without a value.';
comment on column public.data_statistics.distinct_values is 'Different values.';
comment on column public.data_statistics.smallest is 'Smallest number.';
comment on column public.data_statistics.lower_quartile is 'A quarter of the numbers are no greater.';
comment on column public.data_statistics.median is 'Half of the numbers are no greater.';
comment on column public.data_statistics.upper_quartile is 'Three quarters of the numbers are no greater.';
comment on column public.data_statistics.largest is 'Largest number.';
comment on column public.data_statistics.negative_values is 'Rows with a number below 0: in sales.value, refunds.';
comment on column public.data_statistics.negative_total is 'Sum of the numbers below 0.';
comment on column public.data_statistics.first_day is 'First day.';
comment on column public.data_statistics.last_day is 'Last day.';
comment on column public.data_statistics.counts is 'Rows of each value, where there are few.';
comment on column public.data_statistics.anomalies is 'What was unusual about the file; null if nothing was.';
comment on column public.data_statistics.decided_by is 'Who published it all the same.';

-- Markdown, as Airflow shows it under Required Actions.
create view pipeline.approval_requests as
with rounded as (
    select
        anomaly_checks.load_id,
        anomaly_checks.measure,
        anomaly_checks.anomaly,
        left(trim_scale(round(anomaly_checks.value, places.number))::text, 40) as value,
        left(trim_scale(round(anomaly_checks.median, places.number))::text, 40) as median,
        left(
            trim_scale(
                round(
                    case when anomaly_checks.value < 0 then anomaly_checks.low else greatest(anomaly_checks.low, 0) end,
                    places.number
                )
            )::text, 40
        ) as low,
        left(trim_scale(round(anomaly_checks.high, places.number))::text, 40) as high
    from pipeline.anomaly_checks
    cross join lateral (
        values (case when abs(anomaly_checks.value) < 1 then 4 else 2 end)
    ) as places (number)
),

measures as (
    select
        load_id,
        string_agg(
            concat_ws(
                ' | ', case when anomaly is null then '' else '**unusual**' end, replace(measure, '_', ' '), value,
                coalesce(median, ''), coalesce(low || ' to ' || high, '')
            ), E'\n'
            order by anomaly is null, measure
        ) as listing
    from rounded
    group by load_id
),

by_store as (
    select
        loads.load_id,
        sold.store_idx,
        coalesce(sum(sold.row_count) filter (where sold.load_id = published.load_id), 0) as rows_now,
        coalesce(sum(sold.row_count) filter (where sold.load_id = loads.load_id), 0) as rows_then,
        coalesce(sum(sold.total) filter (where sold.load_id = published.load_id), 0) as total_now,
        coalesce(sum(sold.total) filter (where sold.load_id = loads.load_id), 0) as total_then
    from pipeline.loads
    inner join pipeline.loads as published
        on
            loads.file_id = published.file_id
            and loads.load_id <> published.load_id
            and published.status = 'published'
    inner join pipeline.sales_by_store as sold
        on sold.load_id in (loads.load_id, published.load_id)
    group by loads.load_id, sold.store_idx
),

changes as (
    select
        load_id,
        store_idx,
        rows_now,
        rows_then,
        total_now,
        total_then,
        row_number() over (
            partition by load_id
            order by abs(rows_then - rows_now) desc, abs(total_then - total_now) desc, store_idx
        ) as place
    from by_store
    where (rows_now, total_now) is distinct from (rows_then, total_then)
),

stores as (
    select
        load_id,
        string_agg(
            concat_ws(' | ', store_idx, rows_now, rows_then, total_now, total_then), E'\n'
            order by place
        ) as listing
    from changes
    where place <= 20
    group by load_id
)

select
    loads.load_id,
    loads.status,
    loads.error,
    loads.anomalies,
    loads.decided_by,
    loads.file_id in (
        select published.file_id
        from pipeline.loads as published
        where published.status in ('published', 'retired')
    ) as replaces_rows,
    concat_ws(
        E'\n\n',
        concat(
            '**', loads.source_url, '** (load ', loads.load_id, '): ',
            coalesce(loads.anomalies, 'nothing is unusual'), '.'
        ),
        E'| | measure | this file | median | expected |\n| --- | --- | --- | --- | --- |\n'
        || regexp_replace(measures.listing, '^(.*)$', '| \1 |', 'gn'),
        E'Against what is published, the stores that change most:\n\n'
        || E'| store | rows now | rows then | total now | total then |\n| --- | --- | --- | --- | --- |\n'
        || regexp_replace(stores.listing, '^(.*)$', '| \1 |', 'gn')
    ) as question
from pipeline.loads
inner join measures
    on loads.load_id = measures.load_id
left join stores
    on loads.load_id = stores.load_id;

comment on view pipeline.approval_requests is
'What a person is asked about a load: its measures, and what publishing changes.';
comment on column pipeline.approval_requests.load_id is 'The load: loads.load_id.';
comment on column pipeline.approval_requests.status is 'State of the load: loads.status.';
comment on column pipeline.approval_requests.error is 'Why it is rejected or failed: loads.error.';
comment on column pipeline.approval_requests.decided_by is 'Who has decided already: loads.decided_by.';
comment on column pipeline.approval_requests.anomalies is 'What is unusual about it.';
comment on column pipeline.approval_requests.replaces_rows is 'Whether rows of this file are published.';
comment on column pipeline.approval_requests.question is 'The question, in Markdown.';

grant select on pipeline.approval_requests to pipeline;
