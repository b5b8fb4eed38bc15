create function pipeline.replace_partitions(variadic load_ids bigint[])
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patience constant text := current_setting('lock_timeout');
    this record;
    rule text;
begin
    -- Superseded loads and those whose rows are in the partition already have nothing to replace.
    create temporary table replaced on commit drop as
    select
        loads.load_id,
        loads.address,
        loads.staged_table,
        loads.partition_name as name,
        format('public.%I', loads.table_name) as parent,
        format('partitions.%I', loads.partition_name) as old,
        pg_get_expr(pg_class.relpartbound, pg_class.oid) as bounds
    from pipeline.loads
    inner join pg_class
        on loads.partition_name = pg_class.relname and pg_class.relnamespace = 'partitions'::regnamespace
    where
        loads.load_id = any(load_ids)
        and loads.outcome = 'published'
        and to_regclass(loads.staged_table) is not null;

    -- These locks make no reader wait. Autovacuum gives way to them now, and not while readers wait.
    for this in select * from pg_temp.replaced order by load_id loop
        execute format('lock table only %s in share update exclusive mode', this.parent);
        execute format('lock table %s in share update exclusive mode', this.old);
    end loop;

    begin
        begin
            perform set_config('lock_timeout', '3s', true);
            for this in select * from pg_temp.replaced order by load_id loop
                execute format('lock table %s in access exclusive mode', this.staged_table);
            end loop;
            for this in select * from pg_temp.replaced order by load_id loop
                execute format('lock table only %s in access exclusive mode', this.parent);
                -- Shorter than deadlock_timeout: a reader that holds the next table and waits for this one goes on.
                perform set_config('lock_timeout', '300ms', true);
            end loop;
            for this in select * from pg_temp.replaced order by load_id loop
                execute format('drop table %s', this.old);
                execute format('revoke all on table %s from pipeline', this.staged_table);
                execute format('alter table %s rename to %I', this.staged_table, this.name);
                execute format('alter table staging.%I set schema partitions', this.name);
                execute format('alter table %s attach partition %s %s', this.parent, this.old, this.bounds);
                -- A rule that only the staged table had is implied by the partition's bounds now.
                for rule in
                    select conname
                    from pg_constraint
                    where conrelid = this.old::regclass and contype = 'c' and conislocal
                loop
                    execute format('alter table %s drop constraint %I', this.old, rule);
                end loop;
            end loop;
        exception
            when lock_not_available or deadlock_detected then
                for this in select * from pg_temp.replaced order by load_id loop
                    perform pipeline.report(format(
                        'Other sessions use the tables and did not release them in time, so the rows of %s are deleted'
                        ' and inserted. pg_stat_activity shows the sessions.', this.parent
                    ));
                    execute format('delete from %s', this.old);
                    execute format(
                        'insert into %1$s (%2$s) select %2$s from %3$s', this.old, (
                            select string_agg(quote_ident(attname), ', ' order by attnum)
                            from pg_attribute
                            where attrelid = this.parent::regclass and attnum > 0 and not attisdropped
                        ), this.staged_table
                    );
                    perform pipeline.discard_staged(this.load_id);
                end loop;
        end;
    exception
        when datatype_mismatch or undefined_column then
            perform pipeline.reject(concat(
                this.address, ': ', sqlerrm, '. ', this.parent, ' has changed since the file was staged, so it stays as',
                ' it was. Clear this run from its staging tasks on.'
            ));
    end;
    perform set_config('lock_timeout', patience, true);
    drop table pg_temp.replaced;
end
$$;

comment on function pipeline.replace_partitions(bigint[]) is
'Replaces the rows of the published loads'' partitions by their staged rows, all at once: by attaching the staged
tables, or, if sessions use a table for longer than 3 seconds, by deleting and inserting.';

revoke execute on function pipeline.replace_partitions(bigint[]) from public;

grant execute on function pipeline.replace_partitions(bigint[]) to pipeline;

grant select
on public.customer_profiles, public.customer_activity, public.labels, public.stores, public.sales
to pipeline;
