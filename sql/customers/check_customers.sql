-- Checks the staged customer files: only checked loads can be published.
--
-- Reads   the staged rows of :profiles_load, :activity_load and :labels_load
-- Writes  pipeline.loads: the verdicts
-- Twice?  Yes. The same rows get the same verdict. Each statement commits by itself, so that the ledger keeps a
--         verdict when the last statement fails.

select pipeline.open_staged(%(profiles_load)s::bigint, 'staged_profiles');

select pipeline.open_staged(%(activity_load)s::bigint, 'staged_activity');

select pipeline.open_staged(%(labels_load)s::bigint, 'staged_labels');

-- In a temporary table, because PostgreSQL reads in parallel for CREATE TABLE AS and not for a statement that calls
-- check_load.
-- Clients are counted first, which costs less than to group them; that is needed only if one has two rows.
create temporary table verdicts as
with repeated_profiles as (
    select idx
    from staged_profiles
    where (select count(*) <> count(distinct staged.idx) from staged_profiles as staged)
    group by idx
    having count(*) > 1
),

different_profiles as (
    select staged_profiles.idx
    from staged_profiles
    inner join repeated_profiles
        on staged_profiles.idx = repeated_profiles.idx
    group by staged_profiles.idx
    having count(distinct row(staged_profiles.attr_a, staged_profiles.attr_b, staged_profiles.attr_c)) > 1
),

different_labels as (
    select idx
    from staged_labels
    where (select count(*) <> count(distinct staged.idx) from staged_labels as staged)
    group by idx
    having min(label) <> max(label)
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
                    from different_profiles
                    order by idx
                    limit 5
                ) as first_few
            )
        ) as problem
    from different_profiles
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
                    from different_labels
                    order by idx
                    limit 5
                ) as first_few
            )
        ) as problem
    from different_labels
    having count(*) > 0
),

summary (table_name, last_date) as (
    select
        'customer_activity' as table_name,
        max(valid_from) as last_date
    from staged_activity
)

select
    loads.load_id,
    problems.problem,
    summary.last_date
from pipeline.loads
left join problems
    on loads.table_name = problems.table_name
left join summary
    on loads.table_name = summary.table_name
where loads.load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

select pipeline.check_load(load_id, problem, last_date, null)
from verdicts;

drop table verdicts;

select pipeline.require_checked(%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);
