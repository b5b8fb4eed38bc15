"""data_freshness: how fresh each table is, for those who read them.

Why:    DS and MLE may not see the ledger, yet must know from which file the numbers come. The view reads
        the ledger with its owner's rights, and shows a row for every table, loaded or not.
Locks:  none that anybody could wait for; the view is new.
Undo:   drops the view.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create view public.data_freshness (table_name, loaded_at, file_version, up_to, row_count) as
        with newest_load as (
            select distinct on (table_name)
                table_name,
                sha256
            from pipeline.current_loads
            order by table_name, sale_month desc nulls last
        ),

        loaded as (
            select
                current_loads.table_name,
                max(current_loads.finished_at) as loaded_at,
                newest_load.sha256,
                max(current_loads.last_date) as up_to,
                sum(current_loads.row_count)::bigint as row_count
            from pipeline.current_loads
            inner join newest_load on current_loads.table_name = newest_load.table_name
            group by current_loads.table_name, newest_load.sha256
        ),

        newest_aggregated as (
            select distinct on (sale_month)
                sale_month,
                aggregated_at,
                sha256,
                last_date
            from pipeline.file_loads
            where table_name = 'sales' and aggregated_at is not null
            order by sale_month, aggregated_at desc
        ),

        aggregated as (
            select
                max(aggregated_at) as loaded_at,
                (array_agg(sha256 order by sale_month desc))[1] as sha256,
                max(last_date) as up_to
            from newest_aggregated
        ),

        built as (
            select
                feature_store_builds.built_at,
                feature_store_builds.row_count,
                activity.last_date,
                concat_ws(' ', profiles.sha256, activity.sha256, labels.sha256) as versions
            from pipeline.feature_store_builds
            left join pipeline.file_loads as profiles on feature_store_builds.profiles_load = profiles.load_id
            left join pipeline.file_loads as activity on feature_store_builds.activity_load = activity.load_id
            left join pipeline.file_loads as labels on feature_store_builds.labels_load = labels.load_id
            order by feature_store_builds.built_at desc
            limit 1
        ),

        known (table_name, loaded_at, file_version, up_to, row_count) as (
            select table_name, loaded_at, sha256, up_to, row_count from loaded where table_name <> 'stores'
            union all
            -- The file may repeat a row, the table does not.
            select table_name, loaded_at, sha256, up_to, (select count(*) from public.stores) from loaded
            where table_name = 'stores'
            union all
            select 'monthly_sales', loaded_at, sha256, up_to, (select count(*) from public.monthly_sales)
            from aggregated
            where loaded_at is not null
            union all
            select 'feature_store', built_at, versions, last_date, row_count from built
        )

        select
            every_table.table_name,
            known.loaded_at,
            known.file_version,
            known.up_to,
            known.row_count
        from (
            values
                (1, 'customer_profiles'), (2, 'customer_activity'), (3, 'labels'), (4, 'stores'), (5, 'sales'),
                (6, 'monthly_sales'), (7, 'feature_store')
        ) as every_table (place, table_name)
        left join known on every_table.table_name = known.table_name
        order by every_table.place
    """)
    for comment in (
        "view public.data_freshness is"
        " 'How fresh each table is: when it was last loaded, from which files, up to which day, with how many rows.'",
        "column public.data_freshness.table_name is 'Table in public.'",
        "column public.data_freshness.loaded_at is 'When its rows last changed by a load; null before the first.'",
        "column public.data_freshness.file_version is"
        " 'SHA-256 of the file: for sales and monthly_sales of the newest month''s, for the feature store of"
        " the profiles, the activity and the labels.'",
        "column public.data_freshness.up_to is 'Latest day in the data; null where it has no days.'",
        "column public.data_freshness.row_count is 'Rows that were loaded; null before the first load.'",
    ):
        op.execute(f"comment on {comment}")


def downgrade() -> None:
    op.execute("drop view public.data_freshness")
