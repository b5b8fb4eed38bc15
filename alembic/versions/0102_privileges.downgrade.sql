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
