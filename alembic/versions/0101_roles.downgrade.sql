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
