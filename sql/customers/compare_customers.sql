-- Compares checked customer files with those that are published, and records what is unusual.
--
-- Reads       the staged rows of :profiles_load, :activity_load and :labels_load (samples, if there are many), and the
--             figures of the published loads
-- Writes      pipeline.column_profiles, pipeline.anomaly_checks; pipeline.loads: what is unusual, undecided
-- Idempotent  Yes. The figures of the loads are written again, in one transaction.

select pipeline.open_staged(%(profiles_load)s::bigint, 'staged_profiles_sample', 50000);

select pipeline.open_staged(%(activity_load)s::bigint, 'staged_activity');

select pipeline.open_staged(%(labels_load)s::bigint, 'staged_labels');

select pipeline.profile_load(load_id)
from pipeline.loads
where load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

delete from pipeline.anomaly_checks
where load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

-- Profiles without an activity or a label are no clients of the feature store: indexes that are shifted show here.
insert into pipeline.anomaly_checks (load_id, measure, value)
with covered as (
    select
        count(*) as row_count,
        (
            select count(*)
            from staged_profiles_sample as profiles
            where
                exists (
                    select
                    from staged_activity
                    where staged_activity.idx = profiles.idx
                )
        ) as with_activity,
        (
            select count(*)
            from staged_profiles_sample as profiles
            where
                exists (
                    select
                    from staged_labels
                    where staged_labels.idx = profiles.idx
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
where
    load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint)
    and status in ('checked', 'pending_approval');

drop view staged_profiles_sample, staged_activity, staged_labels;
