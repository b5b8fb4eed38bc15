-- Judges the staged customer files: only what is found good here can be published.
--
-- Reads   staging.customer_profiles, staging.customer_activity, staging.labels
-- Writes  pipeline.file_loads: the verdict on :profiles_load, :activity_load and :labels_load
-- Twice?  Yes. The same rows get the same verdict. Each statement commits by itself, so that the ledger keeps a
--         verdict that the last statement raises.

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

-- One row for each kind of problem, with the first few clients that have it.
problems (problem) as (
    select
        concat(
            'customer_profiles.csv gives ', count(*), ' clients two different profiles, the first of them: ',
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
        concat(
            'labels.csv gives ', count(*), ' clients both labels, the first of them: ',
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
        concat(
            'labels.csv has ', count(*), ' rows with a label other than 0 and 1, the first of them: ',
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
),

verdict as (
    select
        (select max(valid_from) from staging.customer_activity) as last_date,
        (select string_agg(problems.problem, '; ') from problems) as problem
)

update pipeline.file_loads
set
    outcome = case when verdict.problem is null then 'checked' else 'refused' end,
    problem = verdict.problem || ' (they stay in schema staging until the files are staged again)',
    last_date = case when file_loads.table_name = 'customer_activity' then verdict.last_date end,
    finished_at = clock_timestamp()
from verdict
where
    file_loads.load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint)
    and file_loads.outcome in ('staged', 'checked');

-- Raises the verdict, which is one for all three.
select pipeline.require_checked(%(profiles_load)s::bigint, count(*))
from staging.customer_profiles;
