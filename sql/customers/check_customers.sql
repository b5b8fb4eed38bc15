-- Checks the staged customer files: only checked loads can be published.
--
-- Reads       the staged rows of :profiles_load, :activity_load and :labels_load
-- Writes      pipeline.loads: the verdicts, and that the request for the profiles decides for all three
-- Idempotent  Yes. The same rows get the same verdict. One transaction; pipeline.require_checked raises the verdict in
--             a second one, so that the ledger keeps it.

select pipeline.open_staged(%(profiles_load)s::bigint, 'staged_profiles');

select pipeline.open_staged(%(activity_load)s::bigint, 'staged_activity');

select pipeline.open_staged(%(labels_load)s::bigint, 'staged_labels');

-- In a temporary table, because PostgreSQL reads in parallel for CREATE TABLE AS and not for a statement that calls
-- check_load.
-- Clients are counted first, which costs less than to group them; that is needed only if one has two rows.
create temporary table verdicts on commit drop as
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
    having count(distinct row(staged_profiles.*)) > 1
),

different_labels as (
    select idx
    from staged_labels
    where (select count(*) <> count(distinct staged.idx) from staged_labels as staged)
    group by idx
    having min(label) <> max(label)
),

-- One row for each kind of error, with the first few clients that have it.
errors (table_name, error) as (
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
        ) as error
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
        ) as error
    from different_labels
    having count(*) > 0
),

summary (table_name, max_date, total) as (
    select
        'customer_activity' as table_name,
        max(valid_from) as max_date,
        null as total
    from staged_activity

    union all

    select
        'labels' as table_name,
        null as max_date,
        coalesce(sum(label), 0) as total
    from staged_labels
)

select
    loads.load_id,
    errors.error,
    summary.max_date,
    summary.total
from pipeline.loads
inner join pipeline.files
    on loads.file_id = files.file_id
left join errors
    on files.table_name = errors.table_name
left join summary
    on files.table_name = summary.table_name
where loads.load_id in (%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);

select pipeline.check_load(load_id, error, max_date, total, decided_by_load => %(profiles_load)s::bigint)
from verdicts
-- As publishing locks them.
order by array_position(array[%(profiles_load)s, %(activity_load)s, %(labels_load)s]::bigint[], load_id);

drop view staged_profiles, staged_activity, staged_labels;
