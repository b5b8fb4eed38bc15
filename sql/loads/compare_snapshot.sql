-- Compares checked files that replace a whole table with the published ones, and records what is unusual.
--
-- Reads       the staged rows of :loads (samples, if there are many); what the ledger has of them and of the published
--             loads, with the measures that the check of the files has added
-- Writes      pipeline.column_profiles, pipeline.anomaly_checks; pipeline.loads: what is unusual, undecided
-- Idempotent  Yes. The figures of the loads are written again, in one transaction.

select pipeline.profile_load(load_id)
from unnest(%(loads)s::bigint[]) as given (load_id);

-- Rows without a value, and the share of each value where there are few; not of keys.
insert into pipeline.anomaly_checks (load_id, measure, value)
select
    loads.load_id,
    'rows' as measure,
    loads.row_count
from pipeline.loads
where loads.load_id = any(%(loads)s::bigint[])

union all

select
    column_profiles.load_id,
    portions.measure,
    portions.row_count::numeric / column_profiles.sample_rows as value
from pipeline.column_profiles
inner join pipeline.loads
    on column_profiles.load_id = loads.load_id
inner join pipeline.file_rows
    on
        loads.file_id = file_rows.file_id
        and column_profiles.column_name is distinct from file_rows.key_column
cross join
    lateral (
        select
            concat('share of rows without ', column_profiles.column_name) as measure,
            column_profiles.missing_values as row_count

        union all

        select
            concat('share of ', column_profiles.column_name, ' ', counted.word) as measure,
            counted.row_count::bigint
        from jsonb_each_text(column_profiles.counts) as counted (word, row_count)
    ) as portions
where
    column_profiles.load_id = any(%(loads)s::bigint[])
    and column_profiles.sample_rows > 0
on conflict (load_id, measure) do update
    set value = excluded.value, anomaly = null;

-- The thresholds: 5 %% fewer rows or twice as many are unusual, and so is a share that moves by 5 of 100, or by more
-- than chance where there are few rows. Fewer than 100 rows are not compared. What one of the two files lacks has the
-- share 0 there.
with mine as (
    select
        loads.load_id,
        loads.row_count,
        published.load_id as published_load,
        greatest(least(loads.row_count, published.row_count, 50000), 1) as sample_rows
    from pipeline.loads
    inner join pipeline.loads as published
        on
            loads.file_id = published.file_id
            and loads.load_id <> published.load_id
            and published.status = 'published'
    where
        loads.load_id = any(%(loads)s::bigint[])
        and published.row_count >= 100
),

pairs as (
    select
        mine.load_id,
        mine.sample_rows,
        anomaly_checks.measure,
        coalesce(max(anomaly_checks.value) filter (where anomaly_checks.load_id = mine.load_id), 0) as value,
        coalesce(max(anomaly_checks.value) filter (where anomaly_checks.load_id <> mine.load_id), 0) as published
    from mine
    inner join pipeline.anomaly_checks
        on anomaly_checks.load_id in (mine.load_id, mine.published_load)
    where
        mine.row_count > 0
        or anomaly_checks.measure = 'rows'
    group by mine.load_id, mine.sample_rows, anomaly_checks.measure
)

insert into pipeline.anomaly_checks (load_id, measure, value, median, low, high)
select
    pairs.load_id,
    pairs.measure,
    pairs.value,
    pairs.published,
    case
        when pairs.measure = 'rows' then 0.95 * pairs.published
        else greatest(pairs.published - tolerances.tolerance, 0)
    end as low,
    case when pairs.measure = 'rows' then 2 * pairs.published else pairs.published + tolerances.tolerance end as high
from pairs
cross join
    lateral (
        values (greatest(0.05, 5 * sqrt((pairs.published + 0.01) / pairs.sample_rows)))
    ) as tolerances (tolerance)
on conflict (load_id, measure) do update
    set
        median = excluded.median,
        low = excluded.low,
        high = excluded.high;

select pipeline.record_anomalies(variadic %(loads)s::bigint[]);
