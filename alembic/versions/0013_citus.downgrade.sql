-- No limit: moving the rows may take hours.
set local statement_timeout = 0;

-- Citus drops functions and changes tables in one transaction only in this mode.
select set_config('citus.multi_shard_modify_mode', 'sequential', true);

-- Citus creates the tables again, and the views on them, without their comments, with the default privileges and, for
-- views, with no others.
create temporary table restored on commit drop as
with relations as (
    select
        oid,
        relkind,
        relacl,
        oid::regclass::text as relation_name
    from pg_class
    where
        relnamespace in ('public'::regnamespace, 'pipeline'::regnamespace, 'staging'::regnamespace)
        and relkind in ('r', 'p', 'v')
        and not exists (
            select
            from pg_depend
            where
                pg_depend.objid = pg_class.oid
                and pg_depend.deptype = 'e'
        )
)

select
    1 as place,
    format('revoke all on %s from ds_user_role, mle_user_role', relation_name) as command_text
from relations

union all

select
    2 as place,
    format(
        'grant %s on %s to %s%s',
        acl.privilege_type,
        relations.relation_name,
        case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end,
        case when acl.is_grantable then ' with grant option' end
    ) as command_text
from relations
cross join aclexplode(relations.relacl) as acl

union all

select
    3 as place,
    format(
        'comment on %s %s%s is %L',
        case
            when pg_attribute.attname is not null then 'column'
            when relations.relkind = 'v' then 'view'
            else 'table'
        end,
        relations.relation_name,
        '.' || quote_ident(pg_attribute.attname),
        pg_description.description
    ) as command_text
from relations
inner join pg_description
    on
        relations.oid = pg_description.objoid
        and pg_description.classoid = 'pg_class'::regclass
left join pg_attribute
    on
        pg_description.objoid = pg_attribute.attrelid
        and pg_description.objsubid = pg_attribute.attnum
        and pg_attribute.attnum > 0;

select undistribute_table(pg_dist_partition.logicalrelid)
from pg_dist_partition
inner join pg_class
    on pg_dist_partition.logicalrelid = pg_class.oid
where
    pg_class.relowner = 'pipeline_owner'::regrole
    and not pg_class.relispartition;

do $$
declare
    next_command text;
begin
    for next_command in select command_text from restored order by place loop
        execute next_command;
    end loop;
end
$$;

drop function
public.feature_store_as_of(date),
public.feature_store_as_of(date, timestamptz),
public.feature_store_at(integer[], date[]),
public.feature_store_at(integer[], date[], timestamptz),
pipeline.features_of_pairs(integer[], date[], timestamptz);
