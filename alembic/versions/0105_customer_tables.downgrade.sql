drop table public.labels, public.customer_activity, public.customer_profiles;

drop table staging.labels, staging.customer_activity, staging.customer_profiles;

-- What the ledger says of the tables goes with them.
do $$
declare
    staged text;
begin
    for staged in
        select loads.staged_table
        from pipeline.loads
        inner join pipeline.files
            on loads.file_id = files.file_id
        where files.table_name in ('customer_profiles', 'customer_activity', 'labels')
    loop
        execute format('drop table if exists %s cascade', staged);
    end loop;
end
$$;

delete from pipeline.loads
using pipeline.files
where
    loads.file_id = files.file_id
    and files.table_name in ('customer_profiles', 'customer_activity', 'labels');

delete from pipeline.files
where table_name in ('customer_profiles', 'customer_activity', 'labels');

delete from pipeline.sources
where table_name in ('customer_profiles', 'customer_activity', 'labels');
