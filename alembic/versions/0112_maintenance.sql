create function pipeline.analyze_sales()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Each load has analyzed its own rows. PostgreSQL 17 reads all partitions again.
    execute 'analyze '
    || case when current_setting('server_version_num')::integer >= 180000 then 'only ' else '' end
    || 'public.sales';
end
$$;

comment on function pipeline.analyze_sales() is 'Renews the statistics of all months of sales together.';

create function pipeline.compare_load(load bigint)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    this constant pipeline.loads := (select loads from pipeline.loads where load_id = load);
    this_file constant pipeline.files := (select files from pipeline.files where file_id = this.file_id);
    source constant pipeline.sources := (select sources from pipeline.sources where table_name = this_file.table_name);
    found_rows bigint;
    found_total numeric;
begin
    if source.is_cumulative and to_regclass(this.staged_table) is null then
        return format('%s is gone, with which the table would be compared.', this.staged_table);
    elsif source.is_cumulative then
        execute format(
            'select count(*) from (table %s except table public.%I) as missing', this.staged_table, source.table_name
        ) into found_rows;
        return case
            when found_rows > 0 then format('%s rows of the published file are missing or were changed.', found_rows)
        end;
    end if;
    execute format(
        'select count(*), %s from public.%I where %s',
        case
            when source.amount_column is null then 'null::numeric'
            else format('coalesce(sum(%I), 0)', source.amount_column)
        end,
        source.table_name,
        case
            when source.is_monthly then format(
                '%1$I >= %2$L and %1$I < %3$L', source.date_column, this_file.file_month,
                (this_file.file_month + interval '1 month')::date
            )
            else 'true'
        end
    ) into found_rows, found_total;
    if found_rows <> this.row_count or found_total <> this.total then
        return concat(
            'The table has ', found_rows, ' rows', ', total ' || found_total, ', and the published file has ',
            this.row_count, ' rows', ', total ' || this.total, '.'
        );
    end if;
    return null;
end
$$;

comment on function pipeline.compare_load(bigint) is
'Compares the rows in public with the published load that they are of: their number and total, or for a cumulative
source each row. Null if nothing was changed.';
