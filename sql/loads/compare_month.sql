-- Compares a checked file of a month with the other months of its source, and records what is unusual.
--
-- Reads       the staged rows of :load (a sample, if there are many); what the ledger has of it and of the published
--             months
-- Writes      pipeline.column_profiles, pipeline.anomaly_checks; pipeline.loads: what is unusual, undecided
-- Idempotent  Yes. The figures of the load are written again, in one transaction.
--
-- A measure is compared with its median over the 12 neighbours: the published months that are nearest, the month itself
-- never among them, as if all were of its size. Its deviation (for ratios: of logarithms) is unusual outside of
--     season +- greatest(4 * 1.4826 * MAD, tolerance, chance)
-- where season is the median deviation of the same month in other years, MAD the median absolute deviation of the
-- neighbours, without their seasons where these are known, and chance what few rows vary by.

select pipeline.profile_load(%(load)s::bigint);

-- This file, and the published ones of the same source.
create temporary table months on commit drop as
select
    loads.load_id,
    file_rows.file_month,
    file_rows.table_name,
    file_rows.key_column,
    file_rows.date_column,
    file_rows.amount_column,
    file_rows.group_column,
    loads.load_id = this.load_id as is_this,
    file_rows.file_month = this_file.file_month as is_this_month,
    loads.row_count,
    loads.total,
    loads.max_date,
    loads.sha256
from pipeline.loads as this
inner join pipeline.file_rows as this_file
    on this.file_id = this_file.file_id
inner join pipeline.file_rows
    on this_file.table_name = file_rows.table_name
inner join pipeline.loads
    on file_rows.file_id = loads.file_id
where
    this.load_id = %(load)s::bigint
    and (loads.status = 'published' or loads.load_id = this.load_id);

delete from pipeline.anomaly_checks
where load_id = %(load)s::bigint;

insert into pipeline.anomaly_checks (load_id, measure, value)
select
    months.load_id,
    measures.measure,
    measures.value
from months
inner join pipeline.column_profiles as dates
    on
        months.load_id = dates.load_id
        and months.date_column = dates.column_name
left join pipeline.column_profiles as amounts
    on
        months.load_id = amounts.load_id
        and months.amount_column = amounts.column_name
left join pipeline.column_profiles as numbers
    on
        months.load_id = numbers.load_id
        and months.key_column = numbers.column_name
cross join
    lateral (
        select avg((theirs.smallest <= numbers.largest and theirs.largest >= numbers.smallest)::integer) as overlapping
        from months as other_months
        inner join pipeline.column_profiles as theirs
            on
                other_months.load_id = theirs.load_id
                and other_months.key_column = theirs.column_name
        where not other_months.is_this_month
    ) as of_others
cross join
    lateral (
        values
        ('rows', months.row_count),
        ('total', months.total),
        ('mean amount', months.total / nullif(months.row_count, 0)),
        ('share of negative amounts', amounts.negative_values::numeric / nullif(amounts.sample_rows, 0)),
        ('days with rows', dates.distinct_values),
        ('days without rows at the end', (months.file_month + interval '1 month')::date - 1 - months.max_date),
        ('longest gap before that, in days', dates.longest_gap),
        -- Where rows are numbered once and for all, no number comes twice, and none in two months.
        (
            concat('share of repeated ', months.key_column),
            1 - numbers.distinct_values::numeric / nullif(numbers.sample_rows, 0)
        ),
        (concat('share of months with the same range of ', months.key_column), of_others.overlapping)
    ) as measures (measure, value)
where
    months.is_this
    and measures.value is not null

union all

select
    months.load_id,
    concat('share of rows without ', column_profiles.column_name) as measure,
    column_profiles.missing_values::numeric / column_profiles.sample_rows as value
from months
inner join pipeline.column_profiles
    on months.load_id = column_profiles.load_id
inner join pg_catalog.pg_attribute
    on
        column_profiles.column_name = pg_attribute.attname
        and pg_attribute.attrelid = format('staging.%%I', months.table_name)::regclass
where
    months.is_this
    and not pg_attribute.attnotnull
    and column_profiles.sample_rows > 0;

-- The thresholds. Deviations between below and above are never unusual: a quarter less or a third more is sold now and
-- then, and shops close for three days. In the first two years, below_first and above_first: season or growth are not
-- known yet, and a December may sell twice as much, while a month that sells half as much is unusual in any season.
-- chance is in standard deviations of a count of rows; amounts vary more than their number.
with limits (measure, kind, least, chance, below, above, below_first, above_first) as (
    values
    ('rows', 'ratio', 0, 7, ln(0.75), ln(1.35), ln(0.6), ln(3)),
    ('total', 'ratio', null, 10, ln(0.75), ln(1.35), ln(0.6), ln(3)),
    ('mean amount', 'ratio', null, 10, ln(0.75), ln(1.35), ln(0.6), ln(1.7)),
    ('share of negative amounts', 'share', 0, 5, -0.02, 0.02, -0.02, 0.02),
    ('share of rows without %%', 'share', 0, 5, -1, 0.02, -1, 0.02),
    ('share of repeated %%', 'share', 0, 5, -1, 0.02, -1, 0.02),
    ('share of months with the same range of %%', 'share', 0, 0, -1, 0.001, -1, 0.001),
    ('days without rows at the end', 'days', 0, null, -31, 3, -31, 3),
    ('longest gap before that, in days', 'days', 0, null, -31, 3, -31, 3)
),

-- Logarithms of ratios, so that twice and half are as far away.
heights as (
    select
        months.load_id,
        months.file_month,
        months.is_this,
        anomaly_checks.measure,
        limits.kind,
        months.file_month - this.file_month as days_later,
        case
            when limits.kind = 'ratio' then ln(greatest(anomaly_checks.value, 0.01)) else anomaly_checks.value
        end as height
    from pipeline.anomaly_checks
    inner join months
        on anomaly_checks.load_id = months.load_id
    inner join months as this
        on this.is_this
    inner join limits
        on anomaly_checks.measure like limits.measure
    where
        months.is_this
        or not months.is_this_month
),

-- Growth per day, by months that are a year apart, and so of the same season.
trends as (
    select
        later.measure,
        percentile_cont(0.5) within group (order by later.height - earlier.height)::numeric / 365 as growth
    from heights as later
    inner join heights as earlier
        on
            later.measure = earlier.measure
            and later.file_month = earlier.file_month + interval '1 year'
    where
        later.kind = 'ratio'
        and not later.is_this
        and not earlier.is_this
        and abs(later.days_later) < 550
    group by later.measure
),

-- As if all months were at the time of this one, which is the neighbour of none. place counts the others up to a month.
measures as (
    select
        heights.load_id,
        heights.is_this,
        heights.measure,
        extract(month from heights.file_month) as season_month,
        heights.height - coalesce(trends.growth, 0) * heights.days_later as height,
        count(*) filter (where not heights.is_this) over by_month as place,
        count(*) filter (where not heights.is_this) over (partition by heights.measure) as months
    from heights
    left join trends
        on heights.measure = trends.measure
    window by_month as (
        partition by heights.measure
        order by heights.file_month
    )
),

-- Each month beside the 12 others that are nearest to it.
neighbours as (
    select
        measures.load_id,
        measures.is_this,
        measures.measure,
        measures.season_month,
        measures.height,
        near.season_month as near_month,
        near.height as near_height
    from measures
    cross join
        lateral (
            values (greatest(least(measures.place - 5, measures.months - 11 - (not measures.is_this)::integer), 1))
        ) as nearest (first_place)
    inner join measures as near
        on
            measures.measure = near.measure
            and measures.load_id <> near.load_id
            and near.place between nearest.first_place and nearest.first_place + 11 + (not measures.is_this)::integer
    where not near.is_this
),

medians as (
    select
        load_id,
        is_this,
        measure,
        season_month,
        height,
        count(*) as months,
        percentile_cont(0.5) within group (order by near_height)::numeric as median
    from neighbours
    group by load_id, is_this, measure, season_month, height
),

seasons as (
    select
        measure,
        season_month,
        count(*) as years,
        percentile_cont(0.5) within group (order by height - median)::numeric as season
    from medians
    where not is_this
    group by measure, season_month
),

-- What a month with the same season varies by. The season of a month itself is no variation.
deviations as (
    select
        neighbours.measure,
        1.4826 * percentile_cont(0.5) within group (
            order by
                abs(
                    neighbours.near_height - medians.median
                    - case when seasons.years > 1 then seasons.season else 0 end
                )
        )::numeric as mad
    from neighbours
    inner join medians
        on
            neighbours.load_id = medians.load_id
            and neighbours.measure = medians.measure
    inner join seasons
        on
            neighbours.measure = seasons.measure
            and neighbours.near_month = seasons.season_month
    where neighbours.is_this
    group by neighbours.measure
),

-- What a month like this one has.
usual as (
    select
        (
            select greatest(exp(medians.median + coalesce(seasons.season, 0)), 1)
            from medians
            left join seasons
                on
                    medians.measure = seasons.measure
                    and medians.season_month = seasons.season_month
            where
                medians.is_this
                and medians.measure = 'rows'
        ) as row_count,
        (
            select percentile_cont(0.5) within group (order by anomaly_checks.value)
            from pipeline.anomaly_checks
            inner join months
                on anomaly_checks.load_id = months.load_id
            where
                not months.is_this
                and anomaly_checks.measure = 'days with rows'
        ) as sale_days
),

expected as (
    select
        medians.load_id,
        medians.measure,
        limits.kind,
        limits.least,
        medians.median,
        medians.median + case
            -- Of few rows, the share of one season is by chance.
            when limits.kind = 'share' then least(seasons.season, 0)
            else coalesce(seasons.season, 0)
        end - greatest(4 * deviations.mad, chances.chance, -tolerances.below) as low,
        medians.median + case
            when limits.kind = 'share' then greatest(seasons.season, 0)
            else coalesce(seasons.season, 0)
        end + greatest(4 * deviations.mad, chances.chance, tolerances.above) as high
    from medians
    inner join limits
        on medians.measure like limits.measure
    inner join deviations
        on medians.measure = deviations.measure
    left join seasons
        on
            medians.measure = seasons.measure
            and medians.season_month = seasons.season_month
    left join trends
        on medians.measure = trends.measure
    cross join usual
    cross join
        lateral (
            values (
                case
                    when limits.kind = 'ratio' then limits.chance / sqrt(usual.row_count)
                    when limits.kind = 'share'
                        then limits.chance * sqrt((medians.median + 1 / usual.row_count) / usual.row_count)
                    when usual.sale_days < 24 then 31
                    else 0
                end
            )
        ) as chances (chance)
    cross join lateral (values ((seasons.season + trends.growth) is null)) as of_years (are_few)
    cross join
        lateral (
            values (
                case when of_years.are_few then limits.below_first else limits.below end,
                case when of_years.are_few then limits.above_first else limits.above end
            )
        ) as tolerances (below, above)
    where
        medians.is_this
        and medians.months >= 6
)

update pipeline.anomaly_checks
set
    median = case when expected.kind = 'ratio' then exp(expected.median) else expected.median end,
    low = greatest(
        case
            when expected.kind <> 'ratio' then expected.low
            when expected.low < ln(0.1) then 0 -- In logarithms, none counts as 0.01.
            when expected.measure = 'rows' then ceil(exp(expected.low))
            else exp(expected.low)
        end,
        expected.least
    ),
    high = case
        when expected.kind <> 'ratio' then expected.high
        when expected.measure = 'rows' then floor(exp(expected.high))
        else exp(expected.high)
    end
from expected
where
    anomaly_checks.load_id = expected.load_id
    and anomaly_checks.measure = expected.measure;

-- Groups that come, go and change. 20 rows a month: a group with fewer may have none by chance. A chain opens a few
-- stores at once; more of them, and they are numbered in another way. What a group did in the same month of another
-- year is expected.
with this as (
    select *
    from months
    where is_this
),

of_groups as (
    select
        months.file_month,
        months.is_this,
        months.is_this_month,
        group_totals.group_key,
        group_totals.row_count,
        extract(month from months.file_month) = extract(month from this.file_month) as is_season,
        group_totals.row_count::numeric / months.row_count as portion,
        group_totals.total / group_totals.row_count as mean_amount
    from pipeline.group_totals
    inner join months
        on group_totals.load_id = months.load_id
    cross join this
),

missing as (
    select of_groups.group_key
    from of_groups
    inner join this
        on
            of_groups.file_month < this.file_month
            and of_groups.file_month >= this.file_month - interval '3 months'
    where
        of_groups.group_key not in (
            select mine.group_key
            from of_groups as mine
            where mine.is_this
        )
    group by of_groups.group_key
    having
        count(*) = 3
        and min(of_groups.row_count) >= 20
        and not exists (
            select
            from months as season
            where
                extract(month from season.file_month) = extract(month from min(this.file_month))
                and (
                    season.row_count = 0
                    or season.file_month > (
                        select min(earlier.file_month)
                        from of_groups as earlier
                        where earlier.group_key = of_groups.group_key
                    )
                )
                and not season.is_this_month
                and not exists (
                    select
                    from of_groups as theirs
                    where
                        theirs.group_key = of_groups.group_key
                        and theirs.file_month = season.file_month
                )
        )
),

-- Its share of the rows and its mean amount in the year before, and in the same month of other years.
usual_groups as (
    select
        of_groups.group_key,
        of_groups.is_season,
        percentile_cont(0.5) within group (order by of_groups.portion)::numeric as portion,
        percentile_cont(0.5) within group (order by of_groups.mean_amount)::numeric as mean_amount
    from of_groups
    cross join this
    where
        not of_groups.is_this_month
        and (
            of_groups.is_season
            or (
                of_groups.row_count >= 20
                and of_groups.file_month between this.file_month - interval '1 year' and this.file_month
            )
        )
    group by of_groups.group_key, of_groups.is_season
    having of_groups.is_season or count(*) >= 6
),

-- Each group that is unusual by a measure. One that has changed differs from the year before and from its season.
unusual (measure, group_key, detail) as (
    select
        'stores missing' as measure,
        group_key,
        null as detail
    from missing

    union all

    select
        'new stores' as measure,
        group_key,
        null as detail
    from of_groups
    group by group_key
    having bool_and(is_this_month) and bool_or(is_this)

    union all

    select
        compared.measure,
        of_groups.group_key,
        min(
            format(
                ' (%%s%%s instead of %%s%%s)', pipeline.readable(compared.value), compared.unit,
                pipeline.readable(compared.usual_value), compared.unit
            )
        ) filter (where not usual_groups.is_season) as detail
    from of_groups
    cross join this
    inner join usual_groups
        on of_groups.group_key = usual_groups.group_key
    cross join
        lateral (
            values
            (
                'stores with another share of rows',
                usual_groups.portion * this.row_count >= 20
                and not of_groups.portion / usual_groups.portion between 0.25 and 4,
                100 * of_groups.portion, 100 * usual_groups.portion, ' %%'
            ),
            (
                'stores with another mean amount',
                of_groups.row_count >= 20
                and not of_groups.mean_amount / nullif(usual_groups.mean_amount, 0) between 0.33 and 3,
                of_groups.mean_amount, usual_groups.mean_amount, ''
            )
        ) as compared (measure, is_unusual, value, usual_value, unit)
    where of_groups.is_this
    group by compared.measure, of_groups.group_key
    having bool_or(not usual_groups.is_season) and bool_and(compared.is_unusual)
),

limits (measure, high, words) as (
    values
    ('stores missing', 0, 'no rows, with rows in each of the last three months'),
    (
        'new stores',
        3 + 0.2 * (
            select count(distinct of_groups.group_key)
            from of_groups
            where not of_groups.is_this
        ),
        'rows for the first time'
    ),
    ('stores with another share of rows', 0, 'another share of the rows'),
    ('stores with another mean amount', 0, 'another mean amount')
)

insert into pipeline.anomaly_checks (load_id, measure, value, low, high, anomaly)
select
    %(load)s::bigint as load_id,
    limits.measure,
    count(unusual.group_key) as value,
    0 as low,
    limits.high,
    case
        when count(unusual.group_key) > limits.high
            then concat(
                min(this.group_column), ' ',
                array_to_string(
                    (array_agg(concat(unusual.group_key, unusual.detail) order by unusual.group_key))[:20], ', '
                ),
                ' and ' || nullif(greatest(count(*) - 20, 0), 0) || ' more', ': ', limits.words
            )
    end as anomaly
from limits
inner join this
    on this.group_column is not null
left join unusual
    on limits.measure = unusual.measure
where (
    select count(*)
    from months
    where not months.is_this
) >= 6
group by limits.measure, limits.high, limits.words;

-- The month against other files. Small changes are corrections: up to 5 %%, or 20 rows.
with this as (
    select *
    from months
    where is_this
),

measures (measure, value, median, tolerance, anomaly) as (
    select
        concat(measures.name, ' against what is published') as measure,
        measures.value,
        measures.published as median,
        measures.tolerance,
        concat(
            measures.name, ': ', pipeline.readable(measures.value), ' (published: ',
            pipeline.readable(measures.published), ')'
        ) as anomaly
    from this
    inner join months as published
        on
            this.file_month = published.file_month
            and not published.is_this
    cross join
        lateral (
            values
            ('rows', this.row_count, published.row_count, greatest(0.05 * published.row_count, 20)),
            (
                'total', this.total, published.total,
                greatest(0.05, 20.0 / greatest(published.row_count, 1)) * abs(published.total)
            )
        ) as measures (name, value, published, tolerance)
    where measures.value is not null

    union all

    select
        'months with the same rows' as measure,
        count(*) as value,
        null as median,
        0 as tolerance,
        concat(
            'the same ',
            case when bool_or(other.sha256 = this.sha256) then 'file' else 'rows and total of each group' end,
            ' as ', to_char(min(other.file_month), 'YYYY-MM')
        ) as anomaly
    from this
    inner join months as other
        on
            this.file_month <> other.file_month
            and this.row_count = other.row_count
            and this.total is not distinct from other.total
    where
        this.row_count >= 100
        and (
            select count(*)
            from months
            where not months.is_this
        ) >= 6
        and not exists (
            select
                mine.group_key,
                mine.row_count,
                mine.total
            from pipeline.group_totals as mine
            where mine.load_id = this.load_id
            except
            select
                theirs.group_key,
                theirs.row_count,
                theirs.total
            from pipeline.group_totals as theirs
            where theirs.load_id = other.load_id
        )
    having count(*) > 0
)

insert into pipeline.anomaly_checks (load_id, measure, value, median, low, high, anomaly)
select
    %(load)s::bigint as load_id,
    measure,
    value,
    median,
    coalesce(median, 0) - tolerance as low,
    coalesce(median, 0) + tolerance as high,
    case when abs(value - coalesce(median, 0)) > tolerance then anomaly end as anomaly
from measures;

select pipeline.record_anomalies(%(load)s::bigint);
