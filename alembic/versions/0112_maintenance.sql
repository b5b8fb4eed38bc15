create function pipeline.compare_load(load bigint)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    file constant pipeline.file_rows := (select file_rows from pipeline.file_rows where file_id = this.file_id);
    found_rows bigint;
    found_total numeric;
    differences text;
    derived record;
    columns text;
begin
    if file.is_cumulative and to_regclass(this.staged_table) is null then
        return format('%s is gone, with which the table would be compared.', this.staged_table);
    elsif file.is_cumulative then
        -- A migration may have added or dropped some since.
        select string_agg(quote_ident(attname), ', ') into columns
        from pg_attribute as of_file
        inner join pg_attribute as of_table
            using (attname, atttypid)
        where
            of_file.attrelid = this.staged_table::regclass
            and of_table.attrelid = format('public.%I', file.table_name)::regclass
            and of_file.attnum > 0;
        execute format(
            'select count(*) from (select %1$s from %2$s except select %1$s from public.%3$I) as missing',
            columns, this.staged_table, file.table_name
        ) into found_rows;
        return case
            when found_rows > 0 then format('%s rows of the published file are missing or were changed.', found_rows)
        end;
    end if;
    execute format(
        'select count(*), coalesce(sum(%s), 0) from public.%I where %s',
        coalesce(quote_ident(file.amount_column), 'null::numeric'), file.table_name, file.condition
    ) into found_rows, found_total;
    if found_rows <> this.row_count or found_total <> this.total then
        differences := concat(
            'The table has ', found_rows, ' rows', case when this.total is not null then ', total ' || found_total end,
            ', and the published file has ', this.row_count, ' rows', ', total ' || this.total, '.'
        );
    end if;
    -- One row per group and month: its month is the only date, and its sum the only numeric.
    for derived in
        select
            pg_attribute.attrelid::regclass as table_id,
            min(attname) filter (where atttypid = 'date'::regtype) as month_column,
            min(attname) filter (where atttypid = 'numeric'::regtype) as sum_column
        from pg_attribute
        where
            attrelid = any(array(select format('public.%I', name)::regclass from unnest(file.derived_tables) as name))
            and file.is_monthly
            and attnum > 0
        group by attrelid
    loop
        execute format(
            'select count(*) from (select * from pipeline.group_totals where load_id = %L) as sums full join (select *'
            ' from %s where %I = %L) as derived on group_key = %I where total is distinct from %I',
            load, derived.table_id, derived.month_column, file.file_month, file.group_column, derived.sum_column
        ) into found_rows;
        if found_rows > 0 then
            differences := concat_ws(' ', differences, format(
                '%s has other sums than the published file for %s values of %s.', derived.table_id, found_rows, file.group_column
            ));
        end if;
    end loop;
    return differences;
end
$$;

comment on function pipeline.compare_load(bigint) is
'Compares the rows in public with the published load that they are of: their number and total and the sums of the
tables that are derived from them, or for a cumulative source each row. Null if nothing was changed.';

-- Undo

drop function pipeline.compare_load;
