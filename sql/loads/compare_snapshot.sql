-- Compares checked files that replace a whole table with the published ones, and records what is unusual.
--
-- Reads       the staged rows of :loads (samples, if there are many); what the ledger has of them and of the published
--             loads, with the measures that the check of the files has added
-- Writes      pipeline.column_profiles, pipeline.anomaly_checks; pipeline.loads: what is unusual, undecided
-- Idempotent  Yes. The figures of the loads are written again, in one transaction.

select pipeline.profile_load(load_id)
from unnest(%(loads)s::bigint[]) as given (load_id);

-- What an earlier comparison has found.
update pipeline.anomaly_checks
set median = null, low = null, high = null, anomaly = null
where
    load_id = any(%(loads)s::bigint[])
    and (
        measure = 'rows'
        or measure like 'share of %%'
        or measure like 'shift of %%'
    );

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
    set value = excluded.value;

-- The files beside the published ones. Fewer than 100 rows are not compared.
create temporary table mine on commit drop as
select
    loads.load_id,
    loads.row_count,
    file_rows.key_column,
    published.load_id as published_load,
    greatest(least(loads.row_count, published.row_count, 50000), 1) as sample_rows,
    (loads.requested_at at time zone 'UTC')::date - (published.requested_at at time zone 'UTC')::date as days_since
from pipeline.loads
inner join pipeline.file_rows
    on loads.file_id = file_rows.file_id
inner join pipeline.loads as published
    on
        loads.file_id = published.file_id
        and loads.load_id <> published.load_id
        and published.status = 'published'
where
    loads.load_id = any(%(loads)s::bigint[])
    and published.row_count >= 100;

-- The thresholds: 5 %% fewer rows or twice as many are unusual, and so is a share that moves by 5 of 100, or by more
-- than chance where there are few rows. A value that one of the two files lacks has the share 0 there. A column that
-- one of them lacks, because a migration came between, is not compared.
with columns_of_one as (
    select
        mine.load_id,
        column_profiles.column_name
    from mine
    inner join pipeline.column_profiles
        on column_profiles.load_id in (mine.load_id, mine.published_load)
    group by mine.load_id, column_profiles.column_name
    having count(*) = 1
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
        anomaly_checks.measure = 'rows'
        or (
            mine.row_count > 0
            and anomaly_checks.measure like 'share of %%'
            and not exists (
                select
                from columns_of_one
                where
                    columns_of_one.load_id = mine.load_id
                    and (
                        anomaly_checks.measure = concat('share of rows without ', columns_of_one.column_name)
                        or starts_with(anomaly_checks.measure, concat('share of ', columns_of_one.column_name, ' '))
                    )
            )
        )
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

-- The quartiles of columns with many values. Those of numbers may move by a fifth of the range between the published
-- ones, and those of days by a month, and later by the time since the published file was requested; or by chance. In a
-- sample the 140 rows of a page count as one, because they may be alike.
with shifts as (
    select
        mine.load_id,
        concat(
            'shift of the ', quartiles.name, ' of ', this.column_name,
            case when this.first_day is not null then ' in days' end
        ) as measure,
        quartiles.value - quartiles.published as value,
        greatest(
            case when this.first_day is not null then 31 else 0.2 * ranges.width end,
            5 * ranges.width
            * sqrt(case when this.sample_rows < mine.row_count then 140.0 else 1 end / this.sample_rows)
        ) as tolerance,
        case when this.first_day is not null then greatest(mine.days_since, 0) else 0 end as later
    from mine
    inner join pipeline.column_profiles as this
        on
            mine.load_id = this.load_id
            and this.column_name is distinct from mine.key_column
    inner join pipeline.column_profiles as published
        on
            mine.published_load = published.load_id
            and this.column_name = published.column_name
    cross join lateral (values (published.upper_quartile - published.lower_quartile)) as ranges (width)
    cross join
        lateral (
            values
            ('lower quartile', this.lower_quartile, published.lower_quartile),
            ('median', this.median, published.median),
            ('upper quartile', this.upper_quartile, published.upper_quartile)
        ) as quartiles (name, value, published)
    where
        mine.row_count >= 100
        and this.counts is null
        and published.counts is null
)

insert into pipeline.anomaly_checks (load_id, measure, value, low, high)
select
    load_id,
    measure,
    value,
    -tolerance as low,
    tolerance + later as high
from shifts
where value is not null
on conflict (load_id, measure) do update
    set
        value = excluded.value,
        low = excluded.low,
        high = excluded.high;

-- Rows that begin later than tomorrow.
insert into pipeline.anomaly_checks (load_id, measure, value, low, high, anomaly)
select
    loads.load_id,
    'days in the future' as measure,
    greatest(latest.days_ahead, 0) as value,
    0 as low,
    1 as high,
    case
        when latest.days_ahead > 1
            then concat('the latest ', file_rows.date_column, ' is in the future: ', loads.max_date)
    end as anomaly
from pipeline.loads
inner join pipeline.file_rows
    on loads.file_id = file_rows.file_id
cross join
    lateral (values (loads.max_date - (loads.requested_at at time zone 'UTC')::date)) as latest (days_ahead)
where
    loads.load_id = any(%(loads)s::bigint[])
    and latest.days_ahead is not null
on conflict (load_id, measure) do update
    set value = excluded.value, anomaly = excluded.anomaly;

select pipeline.record_anomalies(variadic %(loads)s::bigint[]);
