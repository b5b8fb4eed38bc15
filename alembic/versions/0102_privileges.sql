-- pipeline uses temporary tables: PostgreSQL reads in parallel for CREATE TABLE AS, and not for INSERT.
do $$
declare
    database constant text := quote_ident(current_database());
begin
    execute 'revoke temporary on database ' || database || ' from public';
    execute 'grant connect on database ' || database || ' to ds_user_role, mle_user_role, pipeline';
    execute 'grant temporary on database ' || database || ' to mle_user_role, pipeline';
    execute 'grant create on database ' || database || ' to pipeline_owner';
end
$$;

revoke create on schema public from public;

grant usage on schema public to ds_user_role, pipeline;

grant all on schema public to mle_user_role, pipeline_owner;

-- What comes later.
alter default privileges for role current_user, pipeline_owner, mle_user, mle_user_role in schema public
grant select on tables to ds_user_role;

alter default privileges for role current_user, pipeline_owner, mle_user, mle_user_role in schema public
grant all on tables to mle_user_role;

alter default privileges for role current_user, pipeline_owner, mle_user, mle_user_role in schema public
grant all on sequences to mle_user_role;

alter default privileges for role current_user, pipeline_owner, mle_user, mle_user_role in schema public
grant all on routines to mle_user_role;

-- What the database already has, such as tables that mle_user made before a downgrade. Object types are the letters of
-- acldefault().
create view migrations.objects_in_public as
select
    case relkind when 'S' then 's' else 'r' end as object_type,
    case relkind when 'S' then 'sequence' else 'table' end || ' ' || oid::regclass as object_name,
    relowner as owned_by,
    relacl as acl
from pg_catalog.pg_class
where
    relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p', 'v', 'm', 'f', 'S')

union all

select
    'f' as object_type,
    'routine ' || oid::regprocedure as object_name,
    proowner as owned_by,
    proacl as acl
from pg_catalog.pg_proc
where pronamespace = 'public'::regnamespace;

comment on view migrations.objects_in_public is
'The tables, sequences and routines of schema public. Only a role with the rights of an object''s owner grants it.';

do $$
declare
    object record;
begin
    for object in select * from migrations.objects_in_public order by object_name loop
        if not pg_has_role(object.owned_by, 'usage') then
            raise notice
                '% belongs to %, so it was left as it is. To open it to the roles, grant its privileges as its owner.',
                object.object_name, object.owned_by::regrole;
        else
            execute format('grant all on %s to mle_user_role', object.object_name);
            if object.object_type = 'r' then
                execute format('grant select on %s to ds_user_role', object.object_name);
            end if;
        end if;
    end loop;
end
$$;

-- Functions of PostgreSQL with which a login that may only read fills the disk (by large objects, by messages in the
-- WAL) or, most easily, the server's table of locks.
create view migrations.restricted_functions as
select
    string_agg(oid::regprocedure::text, ', ' order by oid::regprocedure::text) as signatures,
    every(pg_has_role(proowner, 'usage')) as are_ours
from pg_catalog.pg_proc
where
    pronamespace = 'pg_catalog'::regnamespace
    and (
        proname in ('lo_creat', 'lo_create', 'lo_from_bytea', 'pg_logical_emit_message')
        or proname ~ '^pg_(try_)?advisory_(xact_)?lock'
    );

comment on view migrations.restricted_functions is
'Functions of PostgreSQL that fill the disk or the table of locks: for mle_user and the pipeline, not for readers.';

do $$
declare
    restricted constant migrations.restricted_functions := (select r from migrations.restricted_functions as r);
    commands constant text := format(
        'revoke execute on function %1$s from public; grant execute on function %1$s to mle_user_role, pipeline,'
        ' pipeline_owner', restricted.signatures
    );
begin
    if restricted.are_ours then
        execute commands;
    else
        raise notice '% is not a superuser, so ds_user may still call functions that fill the disk or the table of'
            ' locks. As a superuser, run: %', current_user, commands;
    end if;
end
$$;

-- GRANT and REVOKE only warn about what they may not change, so everything that is set above is looked up.
do $$
declare
    ineffective text;
begin
    with objects (object_type, command, object_name, owned_by, acl) as (
        select
            'd',
            '',
            'database ' || quote_ident(datname),
            datdba,
            coalesce(datacl, acldefault('d', datdba))
        from pg_catalog.pg_database
        where datname = current_database()

        union all

        select
            'n',
            '',
            'schema public',
            nspowner,
            coalesce(nspacl, acldefault('n', nspowner))
        from pg_catalog.pg_namespace
        where nspname = 'public'

        union all

        select
            object_type,
            '',
            object_name,
            owned_by,
            acl
        from migrations.objects_in_public
        where pg_has_role(owned_by, 'usage')

        union all

        select
            created.object_type,
            format('alter default privileges for role %s in schema public ', creator),
            created.object_name,
            creator,
            pg_default_acl.defaclacl
        from unnest(
            array[current_user::regrole, 'pipeline_owner', 'mle_user', 'mle_user_role']::regrole[]
        ) as creator
        cross join (values ('r', 'tables'), ('s', 'sequences'), ('f', 'routines')) as created (object_type, object_name)
        left join pg_catalog.pg_default_acl
            on
                pg_default_acl.defaclrole = creator
                and pg_default_acl.defaclnamespace = 'public'::regnamespace
                and lower(pg_default_acl.defaclobjtype::text) = created.object_type
    ),

    granted (object_type, grantee, privilege) as (
        values
        ('d', 'ds_user_role', 'CONNECT'),
        ('d', 'mle_user_role', 'CONNECT'),
        ('d', 'pipeline', 'CONNECT'),
        ('d', 'mle_user_role', 'TEMPORARY'),
        ('d', 'pipeline', 'TEMPORARY'),
        ('d', 'pipeline_owner', 'CREATE'),
        ('n', 'ds_user_role', 'USAGE'),
        ('n', 'pipeline', 'USAGE'),
        ('n', 'mle_user_role', 'ALL'),
        ('n', 'pipeline_owner', 'ALL'),
        ('r', 'ds_user_role', 'SELECT'),
        ('r', 'mle_user_role', 'ALL'),
        ('s', 'mle_user_role', 'ALL'),
        ('f', 'mle_user_role', 'ALL')
    ),

    revoked (object_type, privilege) as (
        values
        ('d', 'TEMPORARY'),
        ('n', 'CREATE')
    ),

    missing (command, run_by) as (
        select
            format('%sgrant %s on %s to %s', command, lower(possible.privilege_type), object_name, granted.grantee),
            objects.owned_by
        from objects
        inner join granted
            on objects.object_type = granted.object_type
        cross join lateral aclexplode(acldefault(objects.object_type::"char", objects.owned_by)) as possible
        where
            possible.grantee = objects.owned_by
            and granted.privilege in ('ALL', possible.privilege_type)
            and not exists (
                select
                from aclexplode(objects.acl) as held
                where
                    held.grantee = granted.grantee::regrole
                    and held.privilege_type = possible.privilege_type
            )

        union all

        select
            format('revoke %s on %s from public', lower(held.privilege_type), objects.object_name),
            held.grantor
        from objects
        inner join revoked
            on objects.object_type = revoked.object_type
        cross join lateral aclexplode(objects.acl) as held
        where
            held.grantee = 0
            and held.privilege_type = revoked.privilege
    )

    select string_agg(format('%s (as %s)', command, run_by::regrole), '; ' order by command) into ineffective
    from missing;

    if ineffective is not null then
        raise exception using message = format(
            'Revision 0102 was not applied: privileges that it sets have no effect, because another role owns the'
            ' object or has granted them, and %s does not have the rights of that role. Run each command as the role in'
            ' parentheses, then run the migration again: %s', current_user, ineffective
        );
    end if;
end
$$;

-- Undo

alter default privileges for role current_user, pipeline_owner, mle_user, mle_user_role in schema public
revoke all on tables from ds_user_role, mle_user_role;

alter default privileges for role current_user, pipeline_owner, mle_user, mle_user_role in schema public
revoke all on sequences from mle_user_role;

alter default privileges for role current_user, pipeline_owner, mle_user, mle_user_role in schema public
revoke all on routines from mle_user_role;

do $$
declare
    object record;
begin
    for object in select * from migrations.objects_in_public order by object_name loop
        if not pg_has_role(object.owned_by, 'usage') then
            raise notice '% belongs to %, so it was left as it is.', object.object_name, object.owned_by::regrole;
        else
            execute format('revoke all on %s from ds_user_role, mle_user_role', object.object_name);
        end if;
    end loop;
end
$$;

drop view migrations.objects_in_public;

do $$
declare
    restricted constant migrations.restricted_functions := (select r from migrations.restricted_functions as r);
begin
    if restricted.are_ours then
        execute format(
            'grant execute on function %1$s to public; revoke execute on function %1$s from mle_user_role, pipeline,'
            ' pipeline_owner', restricted.signatures
        );
    end if;
end
$$;

drop view migrations.restricted_functions;

revoke all on schema public from ds_user_role, mle_user_role, pipeline, pipeline_owner;

do $$
declare
    database constant text := quote_ident(current_database());
begin
    execute 'revoke all on database ' || database || ' from ds_user_role, mle_user_role, pipeline, pipeline_owner';
    execute 'grant temporary on database ' || database || ' to public';
end
$$;
