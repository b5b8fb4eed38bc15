-- Checks the staged customer files: only checked loads can be published.
--
-- Reads       the staged rows of :profiles_load, :activity_load and :labels_load; :loads are all loads of the run;
--             customer_profiles
-- Writes      pipeline.loads: the verdicts, and that the request for the profiles decides for all;
--             pipeline.anomaly_checks: the clients that come and go, and the share of profiles (a sample, if there are
--             many) with an activity and a label
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
errors (load_id, error) as (
    select
        %(profiles_load)s::bigint as load_id,
        concat(
            'clients with two different profiles: ', count(*), ', the first of them: ',
            array_to_string((array_agg(idx order by idx))[:5], ', ')
        ) as error
    from different_profiles
    having count(*) > 0

    union all

    select
        %(labels_load)s::bigint as load_id,
        concat(
            'clients with two different labels: ', count(*), ', the first of them: ',
            array_to_string((array_agg(idx order by idx))[:5], ', ')
        ) as error
    from different_labels
    having count(*) > 0
)

select
    given.place,
    given.load_id,
    errors.error
from unnest(%(loads)s::bigint[]) with ordinality as given (load_id, place)
left join errors
    on given.load_id = errors.load_id;

select pipeline.check_load(load_id, error, decided_by_load => %(profiles_load)s::bigint)
from verdicts
-- As publishing locks them.
order by place;

-- Clients that come and go: 5 %% may be gone, and half may be new. Fewer than 100 are not compared. Of many, about
-- 50,000 are looked at, by their numbers and so the same in both files.
delete from pipeline.anomaly_checks
where
    load_id = %(profiles_load)s::bigint
    and measure like 'clients that are %%';

insert into pipeline.anomaly_checks (load_id, measure, value, low, high)
with sampled as (
    select greatest(row_count / 50000, 1) as every
    from pipeline.loads
    where load_id = %(profiles_load)s::bigint
),

published as (
    select distinct customer_profiles.idx
    from public.customer_profiles
    cross join sampled
    where mod(customer_profiles.idx, sampled.every) = 0
),

staged as (
    select distinct staged_profiles.idx
    from staged_profiles
    cross join sampled
    where mod(staged_profiles.idx, sampled.every) = 0
),

gone as (
    select idx
    from published
    except
    select idx
    from staged
),

came as (
    select idx
    from staged
    except
    select idx
    from published
),

compared as (
    select
        (select count(*) from published) as published_clients,
        (select count(*) from staged) as staged_clients,
        (select count(*) from gone) as gone_clients,
        (select count(*) from came) as new_clients
)

select
    %(profiles_load)s::bigint as load_id,
    measures.measure,
    measures.value,
    0 as low,
    measures.high
from compared
cross join
    lateral (
        values
        ('clients that are gone, in %%', 100.0 * compared.gone_clients / compared.published_clients, 5),
        ('clients that are new, in %%', 100.0 * compared.new_clients / greatest(compared.staged_clients, 1), 50)
    ) as measures (measure, value, high)
where compared.published_clients >= 100;

-- Profiles without an activity or a label are no clients of the feature store: indexes that are shifted show here.
select pipeline.open_staged(%(profiles_load)s::bigint, 'staged_profiles', 50000);

insert into pipeline.anomaly_checks (load_id, measure, value)
with covered as (
    select
        count(*) as row_count,
        (
            select count(*)
            from staged_profiles as profiles
            where
                exists (
                    select
                    from staged_activity
                    where staged_activity.idx = profiles.idx
                )
        ) as with_activity,
        (
            select count(*)
            from staged_profiles as profiles
            where
                exists (
                    select
                    from staged_labels
                    where staged_labels.idx = profiles.idx
                )
        ) as with_label
    from staged_profiles
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
where covered.row_count > 0
on conflict (load_id, measure) do update
    set value = excluded.value;

drop view staged_profiles, staged_activity, staged_labels;
