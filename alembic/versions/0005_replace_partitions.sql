create function pipeline.distribute_staged(load bigint)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set client_min_messages = warning
set lock_timeout = '3s'
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    parent constant regclass := format('public.%I', this.table_name)::regclass;
begin
    if
        to_regclass(this.staged_table) is null
        or not pipeline.is_distributed(parent)
        or pipeline.is_distributed(this.staged_table::regclass)
    then
        return;
    end if;
    execute 'lock table ' || this.staged_table || ' in access exclusive mode';
    perform pg_catalog.create_distributed_table(
        this.staged_table, column_to_column_name(logicalrelid, partkey), colocate_with => parent::text
    )
    from pg_catalog.pg_dist_partition
    where logicalrelid = parent;
    perform pg_catalog.truncate_local_data_after_distributing_table(this.staged_table);
exception
    when lock_not_available or undefined_table then
        null; -- A session reads the table, and its rows are inserted later; or a later load has dropped it.
end
$$;

comment on function pipeline.distribute_staged(bigint) is
'On a Citus cluster, sends the staged rows of a load to the servers where its partition will be, so that publishing
moves none. Elsewhere it does nothing.';

create function pipeline.replace_partitions(variadic load_ids bigint[])
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    patience constant text := current_setting('lock_timeout');
    -- Superseded loads and those whose rows are in the partition already have nothing to replace.
    replaced constant pipeline.loads[] := array(
        select loads
        from pipeline.loads
        where load_id = any(load_ids) and outcome = 'published' and to_regclass(staged_table) is not null
        order by table_name -- as lock_customers does
    );
    -- The servers of a cluster do not commit at the same moment, so readers are to be locked out in the end.
    attempts constant integer := case when pipeline.is_distributed('public.sales') then 5 else 0 end;
    this pipeline.loads;
    bounds text;
    rule text;
    columns text;
begin
    -- Usually the comparison has done it, in a transaction of its own.
    perform pipeline.distribute_staged(load_id) from unnest(replaced);

    -- These locks make no reader wait. Autovacuum gives way to them now, and not while readers wait.
    foreach this in array replaced loop
        execute format('lock table only public.%I in share update exclusive mode', this.table_name);
        execute format('lock table partitions.%I in share update exclusive mode', this.partition_name);
    end loop;

    begin
        begin
            perform set_config('lock_timeout', '3s', true);
            foreach this in array replaced loop
                execute format('lock table %s in access exclusive mode', this.staged_table);
            end loop;
            foreach this in array replaced loop
                perform pipeline.lock_out_readers(this.table_name);
            end loop;
            foreach this in array replaced loop
                bounds := (
                    select pg_get_expr(relpartbound, oid)
                    from pg_class
                    where oid = format('partitions.%I', this.partition_name)::regclass
                );
                execute format('drop table partitions.%I', this.partition_name);
                execute format('revoke all on table %s from pipeline', this.staged_table);
                execute format('alter table %s rename to %I', this.staged_table, this.partition_name);
                execute format('alter table staging.%I set schema partitions', this.partition_name);
                execute format(
                    'alter table public.%I attach partition partitions.%I %s',
                    this.table_name, this.partition_name, bounds
                );
                -- A rule that only the staged table had is implied by the partition's bounds now.
                for rule in
                    select conname
                    from pg_constraint
                    where
                        conrelid = format('partitions.%I', this.partition_name)::regclass
                        and contype = 'c'
                        and conislocal
                loop
                    execute format('alter table partitions.%I drop constraint %I', this.partition_name, rule);
                end loop;
            end loop;
        exception
            when lock_not_available or deadlock_detected then
                foreach this in array replaced loop
                    perform pipeline.report(format(
                        'Other sessions use the tables and did not release them in time, so the rows of public.%I are'
                        ' deleted and inserted. pg_stat_activity shows the sessions.', this.table_name
                    ));
                    columns := (
                        select string_agg(quote_ident(attname), ', ' order by attnum)
                        from pg_attribute
                        where
                            attrelid = format('public.%I', this.table_name)::regclass
                            and attnum > 0
                            and not attisdropped
                    );
                    execute format('delete from partitions.%I', this.partition_name);
                    execute format(
                        'insert into partitions.%1$I (%2$s) select %2$s from %3$s',
                        this.partition_name, columns, this.staged_table
                    );
                    perform pipeline.discard_staged(this.load_id);
                end loop;
                for attempt in 1..attempts loop
                    begin
                        foreach this in array replaced loop
                            perform pipeline.lock_out_readers(this.table_name);
                        end loop;
                        exit;
                    exception
                        when lock_not_available or deadlock_detected then
                            null; -- After the last attempt a reader can see a mixture.
                    end;
                end loop;
        end;
    exception
        when datatype_mismatch or undefined_column then
            perform pipeline.reject(format(
                '%s: %s. public.%I has changed since the file was staged, so it stays as it was. Clear this run from its'
                ' staging tasks on.', this.address, sqlerrm, this.table_name
            ));
    end;
    perform set_config('lock_timeout', patience, true);
    foreach this in array replaced loop
        perform pipeline.grant_to_readers(this.table_name);
    end loop;
end
$$;

comment on function pipeline.replace_partitions(bigint[]) is
'Replaces the rows of the published loads'' partitions by their staged rows, all at once: by attaching the staged
tables, or, if sessions use a table for longer than 3 seconds, by deleting and inserting.';

revoke execute on function pipeline.replace_partitions(bigint[]), pipeline.distribute_staged(bigint) from public;

grant execute on function pipeline.replace_partitions(bigint[]), pipeline.distribute_staged(bigint) to pipeline;

grant select
on public.customer_profiles, public.customer_activity, public.labels, public.stores, public.sales
to pipeline;
