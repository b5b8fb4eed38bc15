do $$
declare
    names constant text[] := array[
        'ds_user_role', 'mle_user_role', 'ds_user', 'mle_user', 'pipeline', 'pipeline_owner'
    ];
    name text;
    memberships text;
begin
    foreach name in array names loop
        if not exists (select from pg_catalog.pg_roles where rolname = name) then
            execute format('create role %I', name);
        elsif exists (
            select from pg_catalog.pg_roles
            where rolname = name and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)
        ) then
            raise exception using message = format(
                'The server has a role %1$s with privileges on the whole server, which the %1$s of this database must'
                ' not have. Nothing was migrated. Remove them with ALTER ROLE %1$s NOSUPERUSER NOCREATEROLE NOCREATEDB'
                ' NOREPLICATION NOBYPASSRLS, or rename the role; then run the migration again.', name
            );
        end if;
        execute format(
            'alter role %I inherit %s', name,
            case when name like '%\_role' or name = 'pipeline_owner' then 'nologin' else 'login' end
        );
    end loop;

    select string_agg(format('%s from %s', roleid::regrole, member::regrole), ', ') into memberships
    from pg_catalog.pg_auth_members
    where
        member = any(names::regrole[])
        and (member::regrole::text, roleid::regrole::text) not in (
            ('ds_user', 'ds_user_role'), ('mle_user', 'mle_user_role'), ('pipeline', 'pg_use_reserved_connections')
        );
    if memberships is not null then
        raise exception using message = format(
            'The server has roles that are members of others, whose privileges they must not have. Nothing was'
            ' migrated. REVOKE %s, or rename the roles; then run the migration again.', memberships
        );
    end if;
end
$$;

-- The same as the tasks ask for when they connect: a connection pooler may drop what they ask for.
alter role pipeline set search_path = pg_catalog, pg_temp;

-- A policy on a table is an error, and never fewer rows.
alter role pipeline set row_security = off;

-- 02/03/2024 is rejected, whatever the server's setting is.
alter role pipeline set datestyle = 'ISO, YMD';

-- Nor does a setting of the server change rows, names, numbers or messages.
alter role pipeline set timezone = 'UTC';

alter role pipeline set intervalstyle = 'postgres';

alter role pipeline set extra_float_digits = 1;

alter role pipeline set client_min_messages = 'notice';

alter role pipeline set quote_all_identifiers = off;

alter role pipeline set standard_conforming_strings = on;

alter role pipeline set transform_null_equals = off;

alter role pipeline set array_nulls = on;

alter role pipeline set default_transaction_isolation = 'read committed';

alter role pipeline set default_transaction_deferrable = off;

-- Sized for a month of ten million rows on slow disks. A lock wait may be long, because no reader waits behind it.
-- While a task requests a file it is idle in its transaction.
alter role pipeline set statement_timeout = '30min';

alter role pipeline set lock_timeout = '2min';

alter role pipeline set idle_in_transaction_session_timeout = '5min';

alter role pipeline set transaction_timeout = 0;

-- The server releases the locks of a task that is gone within seconds.
alter role pipeline set client_connection_check_interval = '5s';

-- One login must not use up the server. Members of a role do not inherit its settings, so each login has its own.
alter role ds_user connection limit 20;

alter role mle_user connection limit 20;

alter role ds_user set idle_in_transaction_session_timeout = '1h';

alter role mle_user set idle_in_transaction_session_timeout = '1h';

-- What only a superuser sets.
do $$
declare
    command text;
begin
    foreach command in array array[
        $sql$alter role ds_user set temp_file_limit = '2GB'$sql$,
        $sql$alter role mle_user set temp_file_limit = '2GB'$sql$,
        -- Neither RAISE LOG nor the text of a statement that fails fills the disk.
        $sql$alter role ds_user set log_min_messages = 'fatal'$sql$,
        'grant pg_use_reserved_connections to pipeline'
    ] loop
        begin
            execute command;
        exception
            when insufficient_privilege then
                raise notice '% is not a superuser, so this limit is not set. As a superuser, run: %',
                    current_user, command;
        end;
    end loop;
end
$$;

grant ds_user_role to ds_user;

grant mle_user_role to mle_user;

-- ALTER DEFAULT PRIVILEGES FOR ROLE mle_user needs membership, which CREATEROLE alone does not give. It also lets admin
-- manage the tables of both.
do $$
declare
    name text;
begin
    foreach name in array array['mle_user', 'pipeline_owner'] loop
        if not pg_has_role(current_user, name, 'usage') then
            execute format('grant %I to current_user', name);
        end if;
    end loop;
end
$$;

-- Undo

-- A role and its login go together: where one of them still owns something on the server, both stay.
do $$
declare
    names text;
begin
    foreach names in array array['ds_user_role, ds_user', 'mle_user_role, mle_user', 'pipeline_owner', 'pipeline'] loop
        begin
            execute 'drop role ' || names;
        exception when dependent_objects_still_exist then
            raise notice '%: kept, because the server has objects that depend on it', names;
        end;
    end loop;
end
$$;
