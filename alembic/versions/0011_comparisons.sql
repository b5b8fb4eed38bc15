create table pipeline.statistics (
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

comment on table pipeline.statistics is 'What each load holds, by column.';
comment on column pipeline.statistics.load_id is 'The load: loads.load_id.';
comment on column pipeline.statistics.column_name is 'Column of the file.';
comment on column pipeline.statistics.sample_rows is
'Rows that the figures are of: all of the file up to 50,000, above that a sample of about so many.';
comment on column pipeline.statistics.missing_values is 'Rows without a value.';
comment on column pipeline.statistics.distinct_values is 'Different values.';
comment on column pipeline.statistics.smallest is 'Smallest number.';
comment on column pipeline.statistics.lower_quartile is 'A quarter of the numbers are no greater.';
comment on column pipeline.statistics.median is 'Half of the numbers are no greater.';
comment on column pipeline.statistics.upper_quartile is 'Three quarters of the numbers are no greater.';
comment on column pipeline.statistics.largest is 'Largest number.';
comment on column pipeline.statistics.negative_values is 'Rows with a number below 0: in sales.value, refunds.';
comment on column pipeline.statistics.negative_total is 'Sum of the numbers below 0.';
comment on column pipeline.statistics.first_day is 'First day.';
comment on column pipeline.statistics.last_day is 'Last day.';
comment on column pipeline.statistics.counts is 'Rows of each value, for letters and labels; see pipeline.shown.';

create table pipeline.comparisons (
    load_id bigint references pipeline.loads,
    measure text,
    value numeric not null,
    median numeric,
    low numeric,
    high numeric,
    oddity text,
    primary key (load_id, measure)
);

comment on table pipeline.comparisons is 'Each measure of a load, and what it was compared with.';
comment on column pipeline.comparisons.load_id is 'The load: loads.load_id.';
comment on column pipeline.comparisons.measure is 'What was measured.';
comment on column pipeline.comparisons.value is 'The value for this load.';
comment on column pipeline.comparisons.median is 'Median of the loads that it was compared with; null without enough.';
comment on column pipeline.comparisons.low is 'Smallest value that is not odd.';
comment on column pipeline.comparisons.high is 'Greatest value that is not odd.';
comment on column pipeline.comparisons.oddity is 'What is odd, in words; null if nothing is.';

grant select, insert, update, delete on pipeline.statistics, pipeline.comparisons to pipeline;

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

create view public.data_statistics as
select
    loads.table_name,
    loads.sale_month,
    statistics.column_name,
    loads.published_at,
    loads.row_count,
    loads.total,
    statistics.sample_rows,
    statistics.missing_values,
    statistics.distinct_values,
    statistics.smallest,
    statistics.lower_quartile,
    statistics.median,
    statistics.upper_quartile,
    statistics.largest,
    statistics.negative_values,
    statistics.negative_total,
    statistics.first_day,
    statistics.last_day,
    statistics.counts,
    loads.oddities,
    loads.decided_by,
    loads.outcome = 'published' as is_current
from pipeline.statistics
inner join pipeline.loads
    on statistics.load_id = loads.load_id
where loads.outcome in ('published', 'superseded');

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
comment on column public.data_statistics.counts is 'Rows of each value, for letters and labels.';
comment on column public.data_statistics.oddities is 'What was odd about the file; null if nothing was.';
comment on column public.data_statistics.decided_by is 'Who published it all the same.';

-- Markdown, as Airflow shows it under Required Actions.
create view pipeline.questions as
with rounded as (
    select
        comparisons.load_id,
        comparisons.measure,
        comparisons.oddity,
        left(trim_scale(round(comparisons.value, places.number))::text, 40) as value,
        left(trim_scale(round(comparisons.median, places.number))::text, 40) as median,
        left(
            trim_scale(
                round(
                    case when comparisons.value < 0 then comparisons.low else greatest(comparisons.low, 0) end,
                    places.number
                )
            )::text, 40
        ) as low,
        left(trim_scale(round(comparisons.high, places.number))::text, 40) as high
    from pipeline.comparisons
    cross join lateral (
        values (case when abs(comparisons.value) < 1 then 4 else 2 end)
    ) as places (number)
),

measures as (
    select
        load_id,
        string_agg(
            concat_ws(
                ' | ', case when oddity is null then '' else '**odd**' end, replace(measure, '_', ' '), value,
                coalesce(median, ''), coalesce(low || ' to ' || high, '')
            ), E'\n'
            order by oddity is null, measure
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
            loads.sale_month = published.sale_month
            and loads.load_id <> published.load_id
            and published.outcome = 'published'
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
    loads.outcome,
    loads.oddities,
    not exists (
        select
        from pipeline.loads as earlier
        where
            earlier.table_name = loads.table_name
            and earlier.sale_month is not distinct from loads.sale_month
            and earlier.published_at is not null
    ) as is_first,
    concat_ws(
        E'\n\n',
        concat('**', loads.address, '** (load ', loads.load_id, '): ', coalesce(loads.oddities, 'nothing is odd'), '.'),
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

comment on view pipeline.questions is 'What a person is asked about a load: its measures, and what publishing changes.';
comment on column pipeline.questions.load_id is 'The load: loads.load_id.';
comment on column pipeline.questions.outcome is 'State of the load: loads.outcome.';
comment on column pipeline.questions.oddities is 'What is odd about it.';
comment on column pipeline.questions.is_first is 'Whether nothing was published of this file before.';
comment on column pipeline.questions.question is 'The question, in Markdown.';

grant select on pipeline.questions to pipeline;
