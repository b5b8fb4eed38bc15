drop view pipeline.published_sales_by_store;

drop table pipeline.sales_by_store;

drop table public.monthly_sales, public.sales, public.stores;

drop table staging.sales, staging.stores;

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
        where files.table_name in ('stores', 'sales')
    loop
        execute format('drop table if exists %s cascade', staged);
    end loop;
end
$$;

delete from pipeline.loads
using pipeline.files
where
    loads.file_id = files.file_id
    and files.table_name in ('stores', 'sales');

delete from pipeline.files
where table_name in ('stores', 'sales');

delete from pipeline.sources
where table_name in ('stores', 'sales');
