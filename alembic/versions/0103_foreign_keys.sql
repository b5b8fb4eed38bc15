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

do $$
declare
    command constant text :=
        'create event trigger foreign_keys_without_casts on ddl_command_end'
        ' when tag in (''CREATE TABLE'', ''ALTER TABLE'')'
        ' execute function migrations.reject_foreign_keys_with_casts()';
begin
    if not exists (select from pg_event_trigger where evtname = 'foreign_keys_without_casts') then
        execute command;
    end if;
exception
    when insufficient_privilege then
        raise notice '% is not a superuser, so mle_user may create foreign keys whose casts run with the rights of other'
            ' owners. As a superuser, run: %', current_user, command;
end
$$;

-- Undo

do $$
begin
    drop event trigger if exists foreign_keys_without_casts;
    drop function migrations.reject_foreign_keys_with_casts();
exception
    when insufficient_privilege then
        raise notice 'The event trigger foreign_keys_without_casts stays, because % is not a superuser.', current_user;
end
$$;
