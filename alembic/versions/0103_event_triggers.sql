create or replace function migrations.reject_foreign_keys_with_casts()
returns event_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_key record;
begin
    select
        pg_constraint.conname,
        pg_constraint.conrelid::regclass as referring,
        pg_constraint.confrelid::regclass as referred
    into found_key
    from pg_constraint
    inner join pg_class as referring
        on pg_constraint.conrelid = referring.oid
    inner join pg_class as referred
        on pg_constraint.confrelid = referred.oid
    cross join lateral unnest(pg_constraint.conkey, pg_constraint.confkey) as columns (number, referred_number)
    inner join pg_attribute
        on
            pg_constraint.conrelid = pg_attribute.attrelid
            and columns.number = pg_attribute.attnum
    inner join pg_attribute as referred_attribute
        on
            pg_constraint.confrelid = referred_attribute.attrelid
            and columns.referred_number = referred_attribute.attnum
    where
        pg_constraint.contype = 'f'
        and exists (
            select
            from pg_event_trigger_ddl_commands() as command
            where command.objid in (pg_constraint.conrelid, pg_constraint.confrelid)
        )
        and referring.relowner <> referred.relowner
        and pg_attribute.atttypid <> referred_attribute.atttypid
    limit 1;
    if found then
        raise exception using errcode = 'datatype_mismatch', message = format(
            'The foreign key %I of %s has other types than the columns of %s, so it was not created. The cast would run'
            ' with the rights of the owner of %s. Declare the columns with the same types.',
            found_key.conname, found_key.referring, found_key.referred, found_key.referred
        );
    end if;
end
$$;

comment on function migrations.reject_foreign_keys_with_casts() is
'Rejects foreign keys between tables of two owners whose types differ.';

create or replace function migrations.reject_overloads()
returns event_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    overload record;
begin
    select
        other.name,
        other.owner
    into overload
    from pg_proc as own
    inner join (
        select
            proname,
            pronamespace,
            proowner
        from pg_proc
        union all
        -- f('…') is a cast if f is a type, and a cast to a domain runs its check.
        select
            typname,
            typnamespace,
            typowner
        from pg_type
        where typtype <> 'c'
    ) as other (name, schema, owner)
        on
            own.proname = other.name
            and own.pronamespace = other.schema
    where
        own.pronamespace = to_regnamespace('public')
        and own.proowner = to_regrole('pipeline_owner')
        and not pg_has_role(other.owner, own.proowner, 'member')
    limit 1;
    if found then
        raise exception using errcode = 'reserved_name', message = format(
            'Schema public would have a function or a type %1$I of %2$s beside the functions %1$I of the pipeline, so the'
            ' command was rejected. Callers of these could run it instead, with their rights. Choose another name.',
            overload.name, overload.owner::regrole
        );
    end if;
end
$$;

comment on function migrations.reject_overloads() is
'Rejects functions and types in public, by other owners, with the name of a function of the pipeline.';

do $$
declare
    name text;
    command text;
begin
    for name, command in
        values
        (
            'foreign_keys_without_casts',
            'create event trigger foreign_keys_without_casts on ddl_command_end'
            ' when tag in (''CREATE TABLE'', ''ALTER TABLE'')'
            ' execute function migrations.reject_foreign_keys_with_casts()'
        ),
        (
            'functions_without_overloads',
            'create event trigger functions_without_overloads on ddl_command_end'
            ' when tag in (''CREATE FUNCTION'', ''CREATE PROCEDURE'', ''CREATE AGGREGATE'', ''CREATE DOMAIN'','
            ' ''CREATE TYPE'', ''ALTER FUNCTION'', ''ALTER PROCEDURE'', ''ALTER ROUTINE'', ''ALTER AGGREGATE'','
            ' ''ALTER DOMAIN'', ''ALTER TYPE'')'
            ' execute function migrations.reject_overloads()'
        )
    loop
        begin
            if not exists (select from pg_event_trigger where evtname = name) then
                execute command;
            end if;
        exception
            when insufficient_privilege then
                raise notice '% is not a superuser, so code of mle_user may run with the rights of others, by casts of'
                    ' foreign keys and by overloads. As a superuser, run: %', current_user, command;
        end;
    end loop;
end
$$;

-- Undo

do $$
begin
    drop event trigger if exists foreign_keys_without_casts;
    drop function migrations.reject_foreign_keys_with_casts();
    drop event trigger if exists functions_without_overloads;
    drop function migrations.reject_overloads();
exception
    when insufficient_privilege then
        raise notice 'The event triggers foreign_keys_without_casts and functions_without_overloads stay, because % is'
            ' not a superuser.', current_user;
end
$$;
