-- pipeline uses temporary tables: PostgreSQL reads in parallel for CREATE TABLE AS, and not for INSERT.
do $$
declare
    database constant text := quote_ident(current_database());
begin
    execute 'revoke temporary on database ' || database || ' from public';
    execute 'grant connect on database ' || database || ' to ds_user_role, mle_user_role, pipeline';
    execute 'grant temporary on database ' || database || ' to mle_user_role, pipeline';
end
$$;

revoke create on schema public from public;

grant usage on schema public to ds_user_role, pipeline;

grant all on schema public to mle_user_role;

-- What the database already has, such as tables that mle_user made before a downgrade.
grant select on all tables in schema public to ds_user_role;

grant all on all tables in schema public to mle_user_role;

grant all on all sequences in schema public to mle_user_role;

grant all on all routines in schema public to mle_user_role;

-- What comes later.
alter default privileges for role current_user, mle_user, mle_user_role in schema public
grant select on tables to ds_user_role;

alter default privileges for role current_user, mle_user, mle_user_role in schema public
grant all on tables to mle_user_role;

alter default privileges for role current_user, mle_user, mle_user_role in schema public
grant all on sequences to mle_user_role;

alter default privileges for role current_user, mle_user, mle_user_role in schema public
grant all on routines to mle_user_role;
