do $$
declare
    staged text;
begin
    for staged in select staged_table from pipeline.loads loop
        execute format('drop table if exists %s cascade', staged);
    end loop;
end
$$;

drop schema pipeline cascade;
