alter default privileges for role current_user, mle_user, mle_user_role in schema public
revoke all on tables from ds_user_role, mle_user_role;

alter default privileges for role current_user, mle_user, mle_user_role in schema public
revoke all on sequences from mle_user_role;

alter default privileges for role current_user, mle_user, mle_user_role in schema public
revoke all on routines from mle_user_role;

revoke all on all tables in schema public from ds_user_role, mle_user_role;

revoke all on all sequences in schema public from mle_user_role;

revoke all on all routines in schema public from mle_user_role;

revoke all on schema public from ds_user_role, mle_user_role, pipeline;

do $$
declare
    database constant text := quote_ident(current_database());
begin
    execute 'revoke all on database ' || database || ' from ds_user_role, mle_user_role, pipeline';
    execute 'grant temporary on database ' || database || ' to public';
end
$$;
