-- Rows come back to this server, which takes as long as it takes.
set local statement_timeout = 0;

-- Functions and tables in one transaction.
select set_config('citus.multi_shard_modify_mode', 'sequential', true);

select undistribute_table(pg_dist_partition.logicalrelid)
from pg_dist_partition
inner join pg_class
    on pg_dist_partition.logicalrelid = pg_class.oid
where
    pg_class.relowner = 'pipeline_owner'::regrole
    and not pg_class.relispartition;

do $$
begin
    alter function pipeline.grant_to_readers(text) reset citus.enable_ddl_propagation;
end
$$;

drop function
public.feature_store_as_of(date),
public.feature_store_as_of(date, timestamptz),
public.feature_store_at(integer[], date[]),
public.feature_store_at(integer[], date[], timestamptz),
pipeline.features_of_pairs(integer[], date[], timestamptz);
