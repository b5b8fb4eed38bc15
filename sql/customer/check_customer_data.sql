-- Judges the staged customer files: only what is found good here can be published.
--
-- Reads   staging.customer_profiles, staging.customer_activity, staging.labels
-- Writes  pipeline.file_loads: the verdicts on :profiles_load, :activity_load and :labels_load
-- Twice?  Yes. The same rows get the same verdict. Each statement commits by itself, so that the ledger keeps a
--         verdict that a later one raises.

with two_profiles as (
    select idx
    from staging.customer_profiles
    group by idx
    having count(distinct row(attr_a, attr_b, attr_c)) > 1
),

two_labels as (
    select idx
    from staging.labels
    group by idx
    having count(distinct label) > 1
),

no_labels as (
    select
        idx,
        label
    from staging.labels
    where label not in (0, 1)
),

newest as (
    select max(valid_from) as last_date
    from staging.customer_activity
),

endless as (
    select
        idx,
        valid_from,
        valid_to
    from staging.customer_activity
    where
        not isfinite(valid_from)
        or not isfinite(valid_to)
),

-- One row for each kind of problem, with the first few clients that have it.
problems (table_name, problem) as (
    select
        'customer_profiles' as table_name,
        concat(
            count(*), ' clients have two different profiles, the first of them: ',
            (
                select string_agg(first_few.idx::text, ', ')
                from (
                    select idx
                    from two_profiles
                    order by idx
                    limit 5
                ) as first_few
            )
        ) as problem
    from two_profiles
    having count(*) > 0

    union all

    select
        'labels' as table_name,
        concat(
            count(*), ' clients have two different labels, the first of them: ',
            (
                select string_agg(first_few.idx::text, ', ')
                from (
                    select idx
                    from two_labels
                    order by idx
                    limit 5
                ) as first_few
            )
        ) as problem
    from two_labels
    having count(*) > 0

    union all

    select
        'labels' as table_name,
        concat(
            count(*), ' rows have a label other than 0 and 1, the first of them: ',
            (
                select string_agg(concat('client ', first_few.idx, ' with ', first_few.label), ', ')
                from (
                    select
                        idx,
                        label
                    from no_labels
                    order by idx, label
                    limit 5
                ) as first_few
            )
        ) as problem
    from no_labels
    having count(*) > 0

    union all

    select
        'customer_activity' as table_name,
        concat(
            count(*), ' rows have an infinite date, the first of them: ',
            (
                select
                    string_agg(
                        concat('client ', first_few.idx, ' from ', first_few.valid_from, ' to ', first_few.valid_to),
                        ', '
                    )
                from (
                    select
                        idx,
                        valid_from,
                        valid_to
                    from endless
                    order by idx, valid_from
                    limit 5
                ) as first_few
            )
        ) as problem
    from endless
    having count(*) > 0
),

verdicts as (
    select
        loads.load_id,
        case when loads.table_name = 'customer_activity' then newest.last_date end as last_date,
        string_agg(problems.problem, '; ') as problem
    from pipeline.file_loads as loads
    cross join newest
    left join problems
        on loads.table_name = problems.table_name
    where loads.load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint)
    group by loads.load_id, loads.table_name, newest.last_date
)

update pipeline.file_loads
set
    outcome = case when verdicts.problem is null then 'checked' else 'refused' end,
    problem = verdicts.problem || ' (the rows stay in schema staging until the file is staged again)',
    last_date = case when verdicts.problem is null then verdicts.last_date end,
    finished_at = clock_timestamp()
from verdicts
where
    file_loads.load_id = verdicts.load_id
    and file_loads.outcome in ('staged', 'checked');

-- Raises all verdicts at once, and then whatever else keeps the loads from being published.
select
    pipeline.refuse(concat(
        string_agg(concat(address, ': ', problem), '; ' order by address),
        '. Nothing was published, and all customer tables stay as they were. When the file is mended, clear this run.'
    ))
from pipeline.file_loads
where
    load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint)
    and outcome = 'refused'
having count(*) > 0;

select pipeline.require_checked(%(profiles_load)s::bigint, count(*))
from staging.customer_profiles;

select pipeline.require_checked(%(activity_load)s::bigint, count(*))
from staging.customer_activity;

select pipeline.require_checked(%(labels_load)s::bigint, count(*))
from staging.labels;
