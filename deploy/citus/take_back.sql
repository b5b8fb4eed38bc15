-- Brings all rows back to the coordinator, which leaves the cluster: the database is again as alembic upgrade head has
-- made it, with the rows of today.
--
-- Reads       the list of servers and the places of the tables
-- Writes      the tables, which become local in place: their views, functions, privileges and comments stay. The other
--             servers keep empty schemas, functions and the roles
-- Idempotent  Yes. A database without the extension stays as it is.
--
-- Run it on the coordinator as admin, before a downgrade or to leave the cluster: README.md has the command. Not with
-- undistribute_table, which makes new tables: it loses comments, and functions and views that use the types of tables.

-- Functions of mle_user are not found.
set search_path = pg_catalog, pg_temp;

select exists (select from pg_extension where extname = 'citus') as is_joined
\gset
\if :is_joined

set client_min_messages = 'warning';
set citus.enable_unsupported_feature_messages = off;

begin;

-- One connection per server, which sees what the statements before have done.
set local citus.multi_shard_modify_mode = 'sequential';

create temporary table places on commit drop as
select
    pg_class.oid::regclass as table_name,
    'rows_' || pg_class.oid as copy_name,
    nspname,
    relname,
    relispartition,
    (
        select string_agg(quote_ident(attname), ', ' order by attnum)
        from pg_attribute
        where attrelid = pg_class.oid and attnum > 0 and not attisdropped and attgenerated = ''
    ) as column_names
from pg_dist_partition
inner join pg_class
    on logicalrelid = pg_class.oid
inner join pg_namespace
    on relnamespace = pg_namespace.oid;

do $$
declare
    placed record;
begin
    -- Loads and readers wait.
    for placed in select * from places where not relispartition order by table_name::text loop
        execute format('lock table %s in access exclusive mode', placed.table_name);
        execute format(
            'create temporary table %I on commit drop as select %s from %s',
            placed.copy_name, placed.column_names, placed.table_name
        );
    end loop;

    -- What Citus itself does when a table is dropped, for a table that stays; partitions first.
    for placed in select * from places order by relispartition desc loop
        perform master_remove_distributed_table_metadata_from_workers(
            placed.table_name, placed.nspname, placed.relname
        );
        perform citus_drop_all_shards(placed.table_name, placed.nspname, placed.relname);
        perform master_remove_partition_metadata(placed.table_name, placed.nspname, placed.relname);
    end loop;
    for placed in select * from pg_trigger where tgfoid = 'citus_truncate_trigger()'::regprocedure loop
        execute format('drop trigger %I on %s', placed.tgname, placed.tgrelid::regclass);
    end loop;
    -- A table that is distributed would go with the extension.
    delete from pg_depend
    where
        classid = 'pg_class'::regclass
        and objid in (select table_name from places)
        and refclassid = 'pg_extension'::regclass
        and refobjid = (select oid from pg_extension where extname = 'citus');

    -- Without the triggers that ran when the rows came.
    set local session_replication_role = 'replica';
    for placed in select * from places where not relispartition loop
        execute format(
            'insert into %s (%s) overriding system value table %I',
            placed.table_name, placed.column_names, placed.copy_name
        );
    end loop;
    set local session_replication_role = 'origin';
end
$$;

select count(citus_remove_node(nodename, nodeport)) as servers_that_left
from pg_dist_node;

select definition
from migrations.replaced_functions
\gexec

drop table migrations.replaced_functions;

revoke usage on sequence pipeline.feature_store_builds_build_id_seq from pipeline;

alter role current_user reset citus.multi_shard_modify_mode;

alter role pipeline reset citus.enable_unsupported_feature_messages;

alter role pipeline_owner nologin password null;

commit;

-- Without CASCADE: what depends on it stops here.
drop extension citus;

\endif
