-- Compares checked customer files with those that are published. An odd one is held until a person decides.
--
-- Reads   the staged rows of :profiles_load, :activity_load and :labels_load (samples, if there are many), and the
--         figures of the published loads
-- Writes  pipeline.statistics, pipeline.comparisons; pipeline.loads: that a load is held
-- Twice?  Yes. The figures of the loads are written again, and a decision on them is asked for again.

select pipeline.open_staged(%(profiles_load)s::bigint, 'staged_profiles');

select pipeline.open_staged(%(activity_load)s::bigint, 'staged_activity');

select pipeline.open_staged(%(labels_load)s::bigint, 'staged_labels');

delete from pipeline.statistics
where load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

delete from pipeline.comparisons
where load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

insert into pipeline.statistics (
    load_id, column_name, sample_rows, missing_values, distinct_values, smallest, lower_quartile, median,
    upper_quartile, largest, negative_values, negative_total, first_day, last_day
)
with cells (load_id, column_name, number, letter, on_day) as (
    select
        %(profiles_load)s::bigint as load_id,
        cells.*,
        null::date as on_day
    from staged_profiles_sample as sampled
    cross join
        lateral (
            values
            ('idx', sampled.idx::double precision, null),
            ('attr_a', sampled.attr_a, null),
            ('attr_b', null, sampled.attr_b),
            ('attr_c', null, sampled.attr_c)
        ) as cells

    union all

    select
        %(activity_load)s::bigint as load_id,
        cells.*
    from staged_activity_sample as sampled
    cross join
        lateral (
            values
            ('idx', sampled.idx::double precision, null, null::date),
            ('valid_from', null, null, sampled.valid_from),
            ('valid_to', null, null, sampled.valid_to),
            ('scd_a', sampled.scd_a, null, null),
            ('scd_b', sampled.scd_b, null, null)
        ) as cells

    union all

    select
        %(labels_load)s::bigint as load_id,
        cells.*,
        null::date as on_day
    from staged_labels_sample as sampled
    cross join lateral (
        values
        ('idx', sampled.idx::double precision, null),
        ('label', null, sampled.label::text)
    ) as cells
)

select
    load_id,
    column_name,
    count(*) as sample_rows,
    count(*) filter (where num_nonnulls(number, letter, on_day) = 0) as missing_values,
    -- Each column has values of one kind alone.
    count(distinct letter) + count(distinct number) + count(distinct on_day) as distinct_values,
    min(number) as smallest,
    percentile_disc(0.25) within group (order by number) as lower_quartile,
    percentile_disc(0.5) within group (order by number) as median,
    percentile_disc(0.75) within group (order by number) as upper_quartile,
    max(number) as largest,
    count(*) filter (where number < 0) as negative_values,
    sum(number) filter (where number < 0) as negative_total,
    min(on_day) as first_day,
    max(on_day) as last_day
from cells
group by load_id, column_name;

with counts as (
    select
        %(profiles_load)s::bigint as load_id,
        'attr_b' as column_name,
        coalesce(attr_b, '') as letter,
        count(*) as row_count
    from staged_profiles_sample
    group by attr_b

    union all

    select
        %(labels_load)s::bigint as load_id,
        'label' as column_name,
        label::text as letter,
        count(*) as row_count
    from staged_labels_sample
    group by label
),

summary as (
    select
        load_id,
        column_name,
        jsonb_object_agg(letter, row_count) as counts
    from counts
    group by load_id, column_name
    -- More are no letters.
    having count(*) <= 100
)

update pipeline.statistics
set counts = summary.counts
from summary
where
    statistics.load_id = summary.load_id
    and statistics.column_name = summary.column_name;

-- Fewer than 100 rows are not compared. The thresholds: a file with 5 %% fewer rows or twice as many is odd, and so is
-- a share that moves by 5 of 100, or by more than chance where there are few rows.
with mine as (
    select
        loads.load_id,
        loads.table_name,
        loads.row_count,
        published.load_id as published_load,
        published.row_count as published_rows
    from pipeline.loads
    inner join pipeline.loads as published
        on
            loads.table_name = published.table_name
            and loads.load_id <> published.load_id
            and published.outcome = 'published'
    where
        loads.load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint)
        and published.row_count >= 100
),

shares (load_id, measure, portion, sample_rows) as (
    select
        load_id,
        concat('share of rows without ', column_name) as measure,
        missing_values::numeric / nullif(sample_rows, 0) as portion,
        sample_rows
    from pipeline.statistics

    union all

    select
        statistics.load_id,
        concat('share of ', statistics.column_name, ' ', letters.letter) as measure,
        letters.row_count::numeric / nullif(statistics.sample_rows, 0) as portion,
        statistics.sample_rows
    from pipeline.statistics
    cross join lateral jsonb_each_text(statistics.counts) as letters (letter, row_count)
),

-- A letter that one of the two files lacks has the share 0 there.
pairs as (
    select
        mine.load_id,
        shares.measure,
        coalesce(max(shares.portion) filter (where shares.load_id = mine.load_id), 0) as value,
        coalesce(max(shares.portion) filter (where shares.load_id = mine.published_load), 0) as published,
        greatest(min(shares.sample_rows), 1) as sample_rows
    from mine
    inner join shares
        on shares.load_id in (mine.load_id, mine.published_load)
    where mine.row_count > 0
    group by mine.load_id, shares.measure
),

compared (load_id, measure, value, median, low, high) as (
    select
        load_id,
        'rows' as measure,
        row_count as value,
        published_rows as median,
        0.95 * published_rows as low,
        2 * published_rows as high
    from mine

    union all

    select
        load_id,
        measure,
        value,
        published as median,
        published - greatest(0.05, 5 * sqrt((published + 0.01) / sample_rows)) as low,
        published + greatest(0.05, 5 * sqrt((published + 0.01) / sample_rows)) as high
    from pairs
)

insert into pipeline.comparisons (load_id, measure, value, median, low, high, oddity)
select
    load_id,
    measure,
    value,
    median,
    low,
    high,
    case
        when not value between low and high
            then format(
                '%%s: %%s (expected: %%s to %%s)',
                measure,
                trim_scale(round(value, 2)),
                trim_scale(round(greatest(low, 0), 2)),
                trim_scale(round(high, 2))
            )
    end as oddity
from compared;

select pipeline.hold_load(loads.load_id, string_agg(comparisons.oddity, '; ' order by comparisons.measure))
from pipeline.loads
left join pipeline.comparisons
    on loads.load_id = comparisons.load_id
where loads.load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint)
group by loads.load_id;

-- On a cluster, the rows leave the coordinator before they are published; elsewhere they stay where they are.
select pipeline.distribute_staged(%(profiles_load)s::bigint);

select pipeline.distribute_staged(%(activity_load)s::bigint);

select pipeline.distribute_staged(%(labels_load)s::bigint);
