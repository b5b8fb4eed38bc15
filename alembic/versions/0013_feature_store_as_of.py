"""feature_store_as_of(day): the feature store as it would have been built on a day.

Why:    a model that is trained on features of today learns from what happened after the day it is asked about.
        The function chooses each client's activity as the rebuild of feature_store does, among the rows that
        had begun by the day, and takes an end that had not come yet for none. From valid_to on a row has ended,
        and a client without a row that holds is shown as it was last; so a file whose next row begins on
        valid_to and one whose next row begins the day after are both read right, on valid_to too.
        It has no rights of its own and sets no search_path, either of which would keep PostgreSQL from planning
        it as part of the query that calls it; what its names mean was settled when it was created.
Locks:  none that anybody could wait for; the function is new. From now on a column that it reads can change its
        type only in a migration that drops the function and creates it anew.
Undo:   drops the function.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
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
                    activity.valid_from <= feature_store_as_of.day
                    and (activity.valid_to is null or activity.valid_to > feature_store_as_of.day)
                order by
                    activity.idx asc,
                    activity.valid_from desc,
                    activity.scd_a desc nulls last,
                    activity.scd_b desc nulls last
            ),

            -- Of those who have no current row.
            last_activity as (
                select distinct on (activity.idx)
                    activity.idx,
                    activity.scd_a,
                    activity.scd_b
                from public.customer_activity as activity
                where
                    activity.valid_from <= feature_store_as_of.day
                    and activity.valid_to <= feature_store_as_of.day
                    and not exists (
                        select
                        from public.customer_activity as other
                        where
                            other.idx = activity.idx
                            and other.valid_from <= feature_store_as_of.day
                            and (other.valid_to is null or other.valid_to > feature_store_as_of.day)
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
        end
    """)
    # mle_user_role has it by the default privileges of the schema.
    op.execute("grant execute on function public.feature_store_as_of(date) to ds_user_role")
    op.execute("""
        comment on function public.feature_store_as_of(date) is
            'The feature store as it would have been built on that day: each client with the activity that was its'
            ' latest then. Clients whose first activity began later are left out. Profiles and labels have no days:'
            ' they are today''s. For today it equals feature_store.'
    """)


def downgrade() -> None:
    op.execute("drop function public.feature_store_as_of(date)")
