-- Resolves the days of each changed client: which of its activities is the latest on each day.
--
-- Reads       the temporary table clients, customer_activity
-- Writes      the temporary table resolved: from which day to which each activity is the latest of its client
-- Idempotent  Yes. It writes nothing that stays; see find_changed_clients.sql.

-- If many clients have changed, to sort their activities costs less than to find each of them in a hash table, although
-- the planner chooses the hash.
select set_config('enable_hashjoin', (10 * count(*) filter (where is_changed) < count(*))::text, true)
from clients;

-- The rule stands in the second statement. The first one finds the rows for which it comes to the same as the order of
-- valid_from: no other row begins on that day, and all earlier rows have ended, and not after it. Such a row is the
-- latest until the next one begins, whether it has ended or not.
create temporary table resolved on commit drop as
with in_order as (
    select
        activity.idx,
        activity.valid_from,
        activity.valid_to,
        activity.scd_a,
        activity.scd_b,
        lead(activity.valid_from) over begun_before as next_from,
        lag(activity.valid_from) over begun_before as previous_from,
        max(coalesce(activity.valid_to, 'infinity')) over begun_before as last_end
    from public.customer_activity as activity
    inner join clients
        on activity.idx = clients.idx
    where
        clients.is_changed
        and clients.source_hash is not null
    window begun_before as (
        partition by activity.idx
        order by activity.valid_from
        rows between unbounded preceding and 1 preceding
    )
)

select
    idx,
    valid_from,
    next_from as valid_to,
    scd_a,
    scd_b,
    previous_from is null
    or (
        previous_from < valid_from
        and last_end <= valid_from
        and (valid_to is null or valid_to >= last_end)
    ) as is_resolved
from in_order
where
    next_from is null
    or next_from > valid_from;

set local enable_hashjoin = on;

-- The rule: on a day, the rows that have begun are candidates. One that has not ended wins, or else the one that ended
-- last; of several the one that began last; the attributes decide between equal dates, so that every run chooses the
-- same row. A row has ended on valid_to. Between two rows that begin, only the end of a row can change the choice.
insert into resolved (idx, valid_from, valid_to, scd_a, scd_b, is_resolved)
with parts as (
    select *
    from resolved
    where not is_resolved
),

days as (
    select
        idx,
        valid_from as part_from,
        valid_from as changes_on
    from parts

    union

    select
        parts.idx,
        parts.valid_from as part_from,
        activity.valid_to as changes_on
    from parts
    inner join public.customer_activity as activity
        on parts.idx = activity.idx
    where
        activity.valid_from <= parts.valid_from
        and activity.valid_to > parts.valid_from
        and (activity.valid_to < parts.valid_to or parts.valid_to is null)
),

latest as (
    select distinct on (days.idx, days.changes_on)
        days.idx,
        days.part_from,
        days.changes_on,
        activity.scd_a,
        activity.scd_b
    from days
    inner join public.customer_activity as activity
        on
            days.idx = activity.idx
            and days.part_from >= activity.valid_from
    order by
        days.idx asc,
        days.changes_on asc,
        coalesce(activity.valid_to > days.changes_on, true) desc,
        case when activity.valid_to <= days.changes_on then activity.valid_to end desc,
        activity.valid_from desc,
        activity.scd_a desc nulls last,
        activity.scd_b desc nulls last
),

with_previous as (
    select
        idx,
        part_from,
        changes_on,
        scd_a,
        scd_b,
        lag(scd_a) over by_day as previous_a,
        lag(scd_b) over by_day as previous_b
    from latest
    window by_day as (
        partition by idx, part_from
        order by changes_on
    )
)

select
    chosen.idx,
    chosen.changes_on as valid_from,
    coalesce(lead(chosen.changes_on) over by_day, parts.valid_to) as valid_to,
    chosen.scd_a,
    chosen.scd_b,
    true as is_resolved
from with_previous as chosen
inner join parts
    on
        chosen.idx = parts.idx
        and chosen.part_from = parts.valid_from
where
    -- A row that ends need not change the choice.
    (
        chosen.changes_on = chosen.part_from
        or (chosen.scd_a, chosen.scd_b) is distinct from (chosen.previous_a, chosen.previous_b)
    )
    -- Without unresolved parts nothing is read.
    and exists (
        select unresolved.idx
        from resolved as unresolved
        where not unresolved.is_resolved
    )
window by_day as (
    partition by chosen.idx, chosen.part_from
    order by chosen.changes_on
);

delete from resolved
where not is_resolved;
