-- Compares checked customer files with those that are published, and records what is unusual.
--
-- Reads       the staged rows of :profiles_load, :activity_load and :labels_load (samples, if there are many), and the
--             figures of the published loads
-- Writes      pipeline.column_profiles, pipeline.anomaly_checks; pipeline.loads: what is unusual
-- Idempotent  Yes. The figures of the loads are written again, in one transaction.

select pipeline.open_staged(%(profiles_load)s::bigint, 'staged_profiles_sample', 50000);

select pipeline.open_staged(%(activity_load)s::bigint, 'staged_activity');

select pipeline.open_staged(%(activity_load)s::bigint, 'staged_activity_sample', 50000);

select pipeline.open_staged(%(labels_load)s::bigint, 'staged_labels');

select pipeline.open_staged(%(labels_load)s::bigint, 'staged_labels_sample', 50000);

delete from pipeline.column_profiles
where load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

delete from pipeline.anomaly_checks
where load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

insert into pipeline.column_profiles (
    load_id, column_name, sample_rows, missing_values, distinct_values, smallest, lower_quartile, median,
    upper_quartile, largest, negative_values, negative_total, first_day, last_day
)
-- One row for each file, so that a sample is read once. Each order by sorts one column alone.
with profiles as (
    select
        count(*) as sample_rows,
        count(attr_a) as attr_a_values,
        count(attr_b) as attr_b_values,
        count(attr_c) as attr_c_values,
        count(distinct idx) as idx_distinct,
        count(distinct attr_a) as attr_a_distinct,
        count(distinct attr_b) as attr_b_distinct,
        count(distinct attr_c) as attr_c_distinct,
        percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (order by idx::double precision) as idx_quantiles,
        percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (
            order by attr_a::double precision
        ) as attr_a_quantiles,
        count(*) filter (where idx < 0) as idx_negative,
        count(*) filter (where attr_a < 0) as attr_a_negative,
        sum(idx) filter (where idx < 0) as idx_negative_total,
        sum(attr_a) filter (where attr_a < 0) as attr_a_negative_total
    from staged_profiles_sample
),

activity as (
    select
        count(*) as sample_rows,
        count(valid_to) as valid_to_values,
        count(scd_a) as scd_a_values,
        count(scd_b) as scd_b_values,
        count(distinct idx) as idx_distinct,
        count(distinct valid_from) as valid_from_distinct,
        count(distinct valid_to) as valid_to_distinct,
        count(distinct scd_a) as scd_a_distinct,
        count(distinct scd_b) as scd_b_distinct,
        percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (order by idx::double precision) as idx_quantiles,
        percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (order by scd_a) as scd_a_quantiles,
        percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (
            order by scd_b::double precision
        ) as scd_b_quantiles,
        count(*) filter (where idx < 0) as idx_negative,
        count(*) filter (where scd_a < 0) as scd_a_negative,
        count(*) filter (where scd_b < 0) as scd_b_negative,
        sum(idx) filter (where idx < 0) as idx_negative_total,
        sum(scd_a) filter (where scd_a < 0) as scd_a_negative_total,
        sum(scd_b) filter (where scd_b < 0) as scd_b_negative_total,
        min(valid_from) as valid_from_first,
        max(valid_from) as valid_from_last,
        min(valid_to) as valid_to_first,
        max(valid_to) as valid_to_last
    from staged_activity_sample
),

labels as (
    select
        count(*) as sample_rows,
        count(distinct idx) as idx_distinct,
        count(distinct label) as label_distinct,
        percentile_disc(array[0, 0.25, 0.5, 0.75, 1]) within group (order by idx::double precision) as idx_quantiles,
        count(*) filter (where idx < 0) as idx_negative,
        sum(idx) filter (where idx < 0) as idx_negative_total
    from staged_labels_sample
),

figures (
    load_id, sample_rows, column_name, missing_values, distinct_values, quantiles, negative_values, negative_total,
    first_day, last_day
) as (
    select
        %(profiles_load)s::bigint as load_id,
        profiles.sample_rows,
        cells.*
    from profiles
    cross join
        lateral (
            values
            (
                'idx', 0, profiles.idx_distinct,
                profiles.idx_quantiles, profiles.idx_negative, profiles.idx_negative_total, null::date, null::date
            ),
            (
                'attr_a', profiles.sample_rows - profiles.attr_a_values, profiles.attr_a_distinct,
                profiles.attr_a_quantiles, profiles.attr_a_negative, profiles.attr_a_negative_total, null, null
            ),
            (
                'attr_b', profiles.sample_rows - profiles.attr_b_values, profiles.attr_b_distinct, null,
                0, null, null, null
            ),
            (
                'attr_c', profiles.sample_rows - profiles.attr_c_values, profiles.attr_c_distinct, null,
                0, null, null, null
            )
        ) as cells

    union all

    select
        %(activity_load)s::bigint as load_id,
        activity.sample_rows,
        cells.*
    from activity
    cross join
        lateral (
            values
            (
                'idx', 0, activity.idx_distinct,
                activity.idx_quantiles, activity.idx_negative, activity.idx_negative_total, null::date, null::date
            ),
            (
                'valid_from', 0, activity.valid_from_distinct, null,
                0, null, activity.valid_from_first, activity.valid_from_last
            ),
            (
                'valid_to', activity.sample_rows - activity.valid_to_values, activity.valid_to_distinct, null,
                0, null, activity.valid_to_first, activity.valid_to_last
            ),
            (
                'scd_a', activity.sample_rows - activity.scd_a_values, activity.scd_a_distinct,
                activity.scd_a_quantiles, activity.scd_a_negative, activity.scd_a_negative_total, null, null
            ),
            (
                'scd_b', activity.sample_rows - activity.scd_b_values, activity.scd_b_distinct,
                activity.scd_b_quantiles, activity.scd_b_negative, activity.scd_b_negative_total, null, null
            )
        ) as cells

    union all

    select
        %(labels_load)s::bigint as load_id,
        labels.sample_rows,
        cells.*
    from labels
    cross join
        lateral (
            values
            (
                'idx', 0, labels.idx_distinct,
                labels.idx_quantiles, labels.idx_negative, labels.idx_negative_total, null::date, null::date
            ),
            (
                'label', 0, labels.label_distinct, null,
                0, null, null, null
            )
        ) as cells
)

select
    load_id,
    column_name,
    sample_rows,
    missing_values,
    distinct_values,
    quantiles[1] as smallest,
    quantiles[2] as lower_quartile,
    quantiles[3] as median,
    quantiles[4] as upper_quartile,
    quantiles[5] as largest,
    negative_values,
    negative_total,
    first_day,
    last_day
from figures;

with letters as (
    select
        attr_b,
        count(*) as row_count
    from staged_profiles_sample
    group by attr_b
),

counts as (
    select
        %(profiles_load)s::bigint as load_id,
        'attr_b' as column_name,
        pipeline.shown(coalesce(attr_b, '')) as letter,
        sum(row_count) as row_count
    from letters
    group by pipeline.shown(coalesce(attr_b, ''))

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

update pipeline.column_profiles
set counts = summary.counts
from summary
where
    column_profiles.load_id = summary.load_id
    and column_profiles.column_name = summary.column_name;

-- Profiles without an activity or a label are no clients of the feature store: indexes that are shifted show here.
insert into pipeline.anomaly_checks (load_id, measure, value)
with covered as (
    select
        count(*) as row_count,
        count(*) filter (
            where idx in (
                select staged_activity.idx
                from staged_activity
            )
        ) as with_activity,
        count(*) filter (
            where idx in (
                select staged_labels.idx
                from staged_labels
            )
        ) as with_label
    from staged_profiles_sample
)

select
    %(profiles_load)s::bigint as load_id,
    measures.measure,
    measures.row_count::numeric / covered.row_count as value
from covered
cross join
    lateral (
        values
        ('share of profiles with an activity', covered.with_activity),
        ('share of profiles with a label', covered.with_label)
    ) as measures (measure, row_count)
where covered.row_count > 0;

-- Fewer than 100 rows are not compared. The thresholds: a file with 5 %% fewer rows or twice as many is unusual, and so
-- is a share that moves by 5 of 100, or by more than chance where there are few rows.
with mine as (
    select
        loads.load_id,
        loads.row_count,
        published.load_id as published_load,
        published.row_count as published_rows
    from pipeline.loads
    inner join pipeline.loads as published
        on
            loads.file_id = published.file_id
            and loads.load_id <> published.load_id
            and published.status = 'published'
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
    from pipeline.column_profiles

    union all

    select
        column_profiles.load_id,
        concat('share of ', column_profiles.column_name, ' ', letters.letter) as measure,
        letters.row_count::numeric / nullif(column_profiles.sample_rows, 0) as portion,
        column_profiles.sample_rows
    from pipeline.column_profiles
    cross join lateral jsonb_each_text(column_profiles.counts) as letters (letter, row_count)

    union all

    select
        anomaly_checks.load_id,
        anomaly_checks.measure,
        anomaly_checks.value as portion,
        column_profiles.sample_rows
    from pipeline.anomaly_checks
    inner join pipeline.column_profiles
        on
            anomaly_checks.load_id = column_profiles.load_id
            and column_profiles.column_name = 'idx'
    where anomaly_checks.measure in ('share of profiles with an activity', 'share of profiles with a label')
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

insert into pipeline.anomaly_checks (load_id, measure, value, median, low, high, anomaly)
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
    end as anomaly
from compared
on conflict (load_id, measure) do update
    set
        median = excluded.median,
        low = excluded.low,
        high = excluded.high,
        anomaly = excluded.anomaly;

-- A decision on the loads is asked for again.
update pipeline.loads
set
    anomalies = (
        select string_agg(anomaly_checks.anomaly, '; ' order by anomaly_checks.measure)
        from pipeline.anomaly_checks
        where anomaly_checks.load_id = loads.load_id
    ),
    decided_by = null,
    decided_at = null
where load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

drop view
staged_profiles_sample, staged_activity, staged_activity_sample, staged_labels, staged_labels_sample;
