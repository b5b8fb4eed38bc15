-- Compares a checked month with the months that are published, and records what is unusual.
--
-- Reads       the staged rows of :sales_load (a sample, if there are many), what the check found in it and in the
--             published months, and the measures of the published months
-- Writes      pipeline.column_profiles, pipeline.anomaly_checks; pipeline.loads: what is unusual, undecided
-- Idempotent  Yes. The figures of the load are written again, in one transaction.
--
-- A measure is compared with its median over the 12 loaded months that are nearest, the month itself never among them.
-- A difference d from the median (for ratios: of logarithms) is unusual outside of
--     season +- greatest(4 * 1.4826 * MAD, least, chance)
-- where season is the median of d of the same month in other years, MAD the median absolute deviation of the 12, and
-- chance what few sales vary by. 4 and not 5: the seasons of the 12 are part of their MAD, and with 5 one of 20 halved
-- months was not unusual.

select pipeline.open_staged(%(sales_load)s::bigint, 'staged_sales_sample', 50000);

-- This month, and those that are published.
create temporary table months on commit drop as
select
    loads.load_id,
    files.file_month as sale_month,
    loads.load_id = %(sales_load)s::bigint as is_this,
    loads.row_count,
    loads.total,
    loads.max_date,
    loads.sha256
from pipeline.loads
inner join pipeline.files
    on loads.file_id = files.file_id
where
    files.table_name = 'sales'
    and (loads.status = 'published' or loads.load_id = %(sales_load)s::bigint);

select pipeline.profile_load(%(sales_load)s::bigint);

delete from pipeline.anomaly_checks
where load_id = %(sales_load)s::bigint;

insert into pipeline.anomaly_checks (load_id, measure, value)
with gaps as (
    select date - lag(date, 1, %(sale_month)s::date - 1) over (order by date) - 1 as closed_days
    from (
        select distinct date
        from staged_sales_sample
    ) as sold
),

longest_gap as (
    select max(closed_days) as closed_days
    from gaps
)

select
    months.load_id,
    measures.measure,
    measures.value
from months
inner join pipeline.column_profiles as amounts
    on
        months.load_id = amounts.load_id
        and amounts.column_name = 'value'
inner join pipeline.column_profiles as sale_days
    on
        months.load_id = sale_days.load_id
        and sale_days.column_name = 'date'
cross join longest_gap
cross join
    lateral (
        values
        ('rows', months.row_count),
        ('total', months.total),
        ('mean_amount', months.total / nullif(months.row_count, 0)),
        ('refund_share', amounts.negative_values::numeric / nullif(amounts.sample_rows, 0)),
        ('days_with_sales', sale_days.distinct_values),
        ('days_missing_at_end', (months.sale_month + interval '1 month')::date - 1 - months.max_date),
        ('days_missing_before', longest_gap.closed_days)
    ) as measures (measure, value)
where
    months.is_this
    and measures.value is not null;

-- The thresholds. Differences between least_below and least_above are never unusual: a quarter less or a third more is
-- sold now and then, and shops close for three days. Where no other year is loaded, the season is not known: a December
-- may sell twice as much, while a month that sells half as much is unusual in any season.
with limits (measure, is_ratio, least_below, least_above, unknown_below, unknown_above) as (
    values
    ('rows', true, ln(0.75), ln(1.35), ln(0.6), ln(2.5)),
    ('total', true, ln(0.75), ln(1.35), ln(0.6), ln(2.5)),
    ('mean_amount', true, ln(0.75), ln(1.35), ln(0.6), ln(1.7)),
    ('refund_share', false, -1, 0.02, -1, 0.02),
    ('days_missing_at_end', false, -31, 3, -31, 3),
    ('days_missing_before', false, -31, 4, -31, 4)
),

-- Logarithms of ratios, so that twice and half are as far away.
measures as (
    select
        months.load_id,
        months.sale_month,
        months.is_this,
        anomaly_checks.measure,
        anomaly_checks.value,
        limits.is_ratio,
        case when limits.is_ratio then ln(greatest(anomaly_checks.value, 0.01)) else anomaly_checks.value end as height
    from pipeline.anomaly_checks
    inner join months
        on anomaly_checks.load_id = months.load_id
    inner join limits
        on anomaly_checks.measure = limits.measure
    where
        months.is_this
        or months.sale_month <> %(sale_month)s::date
),

-- Each month beside the 12 others that are nearest to it. This one counts for none of them.
neighbours as (
    select
        measures.load_id,
        measures.sale_month,
        measures.measure,
        measures.height,
        near.height as near_height
    from measures
    cross join
        lateral (
            select other.height
            from measures as other
            where
                other.measure = measures.measure
                and other.sale_month <> measures.sale_month
                and other.load_id <> %(sales_load)s::bigint
            order by abs(other.sale_month - measures.sale_month), other.sale_month
            limit 12
        ) as near
    where extract(month from measures.sale_month) = extract(month from %(sale_month)s::date)
),

medians as (
    select
        load_id,
        measure,
        height,
        count(*) as months,
        percentile_cont(0.5) within group (order by near_height)::numeric as median
    from neighbours
    group by load_id, measure, height
),

deviations as (
    select
        neighbours.measure,
        1.4826 * percentile_cont(0.5) within group (
            order by abs(neighbours.near_height - medians.median)
        )::numeric as spread
    from neighbours
    inner join medians
        on
            neighbours.load_id = medians.load_id
            and neighbours.measure = medians.measure
    where neighbours.load_id = %(sales_load)s::bigint
    group by neighbours.measure
),

seasons as (
    select
        measure,
        percentile_cont(0.5) within group (order by height - median)::numeric as season
    from medians
    where load_id <> %(sales_load)s::bigint
    group by measure
),

-- What a month like the compared ones has: the fewer sales, the more their figures vary by chance.
usual as (
    select
        exp(max(median) filter (where measure = 'rows')) as row_count,
        max(median) filter (where measure = 'refund_share') as refund_share,
        (
            select percentile_cont(0.5) within group (order by anomaly_checks.value)
            from pipeline.anomaly_checks
            inner join months
                on anomaly_checks.load_id = months.load_id
            where
                not months.is_this
                and anomaly_checks.measure = 'days_with_sales'
        ) as sale_days
    from medians
    where load_id = %(sales_load)s::bigint
),

chances (measure, chance) as (
    select
        chances.measure,
        chances.chance
    from usual
    cross join lateral (
        values
        ('rows', 5 / sqrt(usual.row_count)),
        ('total', 8 / sqrt(usual.row_count)),
        ('mean_amount', 8 / sqrt(usual.row_count)),
        ('refund_share', 5 * sqrt((usual.refund_share + 1 / usual.row_count) / usual.row_count)),
        ('days_missing_at_end', case when usual.sale_days < 24 then 31 else 0 end),
        ('days_missing_before', case when usual.sale_days < 24 then 31 else 0 end)
    ) as chances (measure, chance)
),

expected as (
    select
        medians.load_id,
        medians.measure,
        limits.is_ratio,
        medians.median,
        medians.median + coalesce(seasons.season, 0) + least(
            -4 * deviations.spread,
            -chances.chance,
            case when seasons.season is null then limits.unknown_below else limits.least_below end
        ) as low,
        medians.median + coalesce(seasons.season, 0) + greatest(
            4 * deviations.spread,
            chances.chance,
            case when seasons.season is null then limits.unknown_above else limits.least_above end
        ) as high
    from medians
    inner join limits
        on medians.measure = limits.measure
    inner join deviations
        on medians.measure = deviations.measure
    inner join chances
        on medians.measure = chances.measure
    left join seasons
        on medians.measure = seasons.measure
    where
        medians.load_id = %(sales_load)s::bigint
        and medians.months >= 6
)

update pipeline.anomaly_checks
set
    median = case when expected.is_ratio then exp(expected.median) else expected.median end,
    low = case when expected.is_ratio then exp(expected.low) else expected.low end,
    high = case when expected.is_ratio then exp(expected.high) else expected.high end
from expected
where
    anomaly_checks.load_id = expected.load_id
    and anomaly_checks.measure = expected.measure;

update pipeline.anomaly_checks
set
    anomaly = format(
        '%%s: %%s (expected: %%s to %%s)',
        words.name,
        trim_scale(round(anomaly_checks.value, 2)),
        trim_scale(round(greatest(anomaly_checks.low, words.least), 2)),
        trim_scale(round(anomaly_checks.high, 2))
    )
from (
    values
    ('rows', 'rows', 0),
    ('total', 'total', null),
    ('mean_amount', 'mean amount', null),
    ('refund_share', 'share of refunds', 0),
    ('days_missing_at_end', 'days without sales at the end of the month', 0),
    ('days_missing_before', 'days without sales in a row before that', 0)
) as words (measure, name, least)
where
    anomaly_checks.load_id = %(sales_load)s::bigint
    and anomaly_checks.measure = words.measure
    and (anomaly_checks.value < anomaly_checks.low or anomaly_checks.value > anomaly_checks.high);

-- Stores that come and go. 20 sales a month: a store with fewer may have none by chance.
with missing as (
    select
        sold.store_idx,
        min(sold.row_count) as row_count
    from pipeline.published_sales_by_store as sold
    where
        sold.sale_month < %(sale_month)s::date
        and sold.sale_month >= %(sale_month)s::date - interval '3 months'
        and not exists (
            select
            from pipeline.sales_by_store as mine
            where
                mine.load_id = %(sales_load)s::bigint
                and mine.store_idx = sold.store_idx
        )
    group by sold.store_idx
    having count(*) = 3 and min(sold.row_count) >= 20
),

new as (
    select mine.store_idx
    from pipeline.sales_by_store as mine
    where
        mine.load_id = %(sales_load)s::bigint
        and not exists (
            select
            from pipeline.published_sales_by_store as sold
            where
                sold.store_idx = mine.store_idx
                and sold.sale_month <> %(sale_month)s::date
        )
),

measures (measure, value, high, anomaly) as (
    select
        'stores_missing' as measure,
        count(*) as value,
        0 as high,
        concat(
            'no sales of ', count(*), ' stores that sold in each of the last three months, the first of them: store ',
            min(store_idx)
        ) as anomaly
    from missing

    union all

    -- A chain opens a few stores at once. More of them, and the stores are numbered in another way.
    select
        'stores_new' as measure,
        count(*) as value,
        3 + 0.2 * (
            select count(distinct sold.store_idx)
            from pipeline.published_sales_by_store as sold
        ) as high,
        concat(count(*), ' stores never had sales before, the first of them: store ', min(store_idx)) as anomaly
    from new
)

insert into pipeline.anomaly_checks (load_id, measure, value, low, high, anomaly)
select
    %(sales_load)s::bigint as load_id,
    measure,
    value,
    0 as low,
    high,
    case when value > high then anomaly end as anomaly
from measures
where (
    select count(*)
    from months
    where not months.is_this
) >= 6;

-- The month against other files. Small changes are corrections: up to 5 %%, or 20 rows.
with this as (
    select *
    from months
    where is_this
),

measures (measure, value, low, high, anomaly) as (
    select
        measures.measure,
        measures.value,
        measures.published - measures.tolerance as low,
        measures.published + measures.tolerance as high,
        concat(
            measures.name, trim_scale(round(measures.published, 2)), ' -> ', trim_scale(round(measures.value, 2)),
            ' against what is published'
        ) as anomaly
    from this
    inner join months as published
        on
            this.sale_month = published.sale_month
            and not published.is_this
    cross join
        lateral (
            values
            (
                'rows_published', 'rows ', this.row_count, published.row_count,
                greatest(0.05 * published.row_count, 20)
            ),
            (
                'total_published', 'total ', this.total, published.total,
                greatest(0.05, 20.0 / greatest(published.row_count, 1)) * abs(published.total)
            )
        ) as measures (measure, name, value, published, tolerance)

    union all

    select
        'same_as_other_month' as measure,
        count(*) as value,
        0 as low,
        0 as high,
        concat(
            'the same ',
            case when bool_or(other.sha256 = this.sha256) then 'file' else 'rows and total of each store' end,
            ' as ', to_char(min(other.sale_month), 'YYYY-MM')
        ) as anomaly
    from this
    inner join months as other
        on
            this.sale_month <> other.sale_month
            and this.row_count = other.row_count
            and this.total = other.total
    where
        this.row_count >= 100
        and (
            select count(*)
            from months
            where not months.is_this
        ) >= 6
        and not exists (
            select
                mine.store_idx,
                mine.row_count,
                mine.total
            from pipeline.sales_by_store as mine
            where mine.load_id = this.load_id
            except
            select
                theirs.store_idx,
                theirs.row_count,
                theirs.total
            from pipeline.sales_by_store as theirs
            where theirs.load_id = other.load_id
        )
    having count(*) > 0
)

insert into pipeline.anomaly_checks (load_id, measure, value, low, high, anomaly)
select
    %(sales_load)s::bigint as load_id,
    measure,
    value,
    low,
    high,
    case when not value between low and high then anomaly end as anomaly
from measures
where value is not null;

-- A decision on the load is asked for again.
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
    load_id = %(sales_load)s::bigint
    and status in ('checked', 'pending_approval');

drop view staged_sales_sample;
