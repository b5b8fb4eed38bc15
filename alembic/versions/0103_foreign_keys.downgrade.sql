do $$
begin
    drop event trigger if exists foreign_keys_without_casts;
    drop function migrations.reject_foreign_keys_with_casts();
exception
    when insufficient_privilege then
        raise notice 'The event trigger foreign_keys_without_casts stays, because % is not a superuser.', current_user;
end
$$;
