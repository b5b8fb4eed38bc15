-- No limit: moving the rows may take hours.
set local statement_timeout = 0;

-- Citus drops functions and changes tables in one transaction only in this mode.
select set_config('citus.multi_shard_modify_mode', 'sequential', true);

-- The tables are created again, and are as open to readers as they were: not by the default privileges of new tables.
alter default privileges for role pipeline_owner in schema public
revoke all on tables from ds_user_role, mle_user_role;

create temporary table opened on commit drop as
select
    table_id::text as table_name,
    opened_at
from pipeline.open_tables;

delete from pipeline.open_tables;

select undistribute_table(pg_dist_partition.logicalrelid)
from pg_dist_partition
inner join pg_class
    on pg_dist_partition.logicalrelid = pg_class.oid
where
    pg_class.relowner = 'pipeline_owner'::regrole
    and not pg_class.relispartition;

insert into pipeline.open_tables (table_id, opened_at)
select
    table_name::regclass as table_id,
    opened_at
from opened;

alter default privileges for role pipeline_owner in schema public
grant select on tables to ds_user_role;

alter default privileges for role pipeline_owner in schema public
grant all on tables to mle_user_role;

do $$
begin
    alter function pipeline.grant_to_readers(text) reset citus.enable_ddl_propagation;
    alter function pipeline.lock_out_readers(text) reset citus.enable_ddl_propagation;
end
$$;

drop function
public.feature_store_as_of(date),
public.feature_store_as_of(date, timestamptz),
public.feature_store_at(integer[], date[]),
public.feature_store_at(integer[], date[], timestamptz),
pipeline.features_of_pairs(integer[], date[], timestamptz);
