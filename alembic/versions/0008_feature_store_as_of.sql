-- $1 is the day.
create function public.feature_store_as_of(day date)
returns table (
    idx integer,
    attr_a integer,
    attr_b text,
    scd_a double precision,
    scd_b integer,
    label integer
)
language sql
stable
parallel safe
begin atomic
    with profiles as (
        select distinct
            customer_profiles.idx,
            customer_profiles.attr_a,
            customer_profiles.attr_b
        from public.customer_profiles
    ),

    labelled as (
        select distinct
            labels.idx,
            labels.label
        from public.labels
    ),

    current_activity as (
        select distinct on (activity.idx)
            activity.idx,
            activity.scd_a,
            activity.scd_b
        from public.customer_activity as activity
        where
            activity.valid_from <= $1
            and (activity.valid_to is null or activity.valid_to > $1)
        order by
            activity.idx asc,
            activity.valid_from desc,
            activity.scd_a desc nulls last,
            activity.scd_b desc nulls last
    ),

    -- Of the clients without a current row.
    last_activity as (
        select distinct on (activity.idx)
            activity.idx,
            activity.scd_a,
            activity.scd_b
        from public.customer_activity as activity
        where
            activity.valid_from <= $1
            and activity.valid_to <= $1
            and not exists (
                select
                from public.customer_activity as other
                where
                    other.idx = activity.idx
                    and other.valid_from <= $1
                    and (other.valid_to is null or other.valid_to > $1)
            )
        order by
            activity.idx asc,
            activity.valid_to desc,
            activity.valid_from desc,
            activity.scd_a desc nulls last,
            activity.scd_b desc nulls last
    ),

    latest_activity as (
        select * from current_activity
        union all
        select * from last_activity
    )

    select
        profiles.idx,
        profiles.attr_a,
        profiles.attr_b,
        latest_activity.scd_a,
        latest_activity.scd_b,
        labelled.label
    from profiles
    inner join latest_activity
        on profiles.idx = latest_activity.idx
    inner join labelled
        on profiles.idx = labelled.idx;
end;

-- mle_user_role has it by the default privileges of the schema.
grant execute on function public.feature_store_as_of(date) to ds_user_role;

comment on function public.feature_store_as_of(date) is
'The feature store as it would have been built on that day: each client with the activity that was its latest then.
Clients whose first activity began later are left out. Profiles and labels have no days: they are today''s. For today
it equals feature_store.';
