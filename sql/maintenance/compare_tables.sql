-- Compares the tables with the ledger: what was published must still stand there.
--
-- Reads       the tables of pipeline.sources and those that are derived from them, one file per query; pipeline.loads
-- Writes      pipeline.files: what was found, and when; the next publication of the file clears it
-- Idempotent  Yes. It finds the same again. A file that is requested or published meanwhile is left out.

create temporary table compared on commit drop as
select
    load_id,
    file_id,
    pipeline.compare_load(load_id) as difference
from pipeline.loads
where status = 'published';

-- Locked first, so that the update sees what was published until then. It waits for no load, and so blocks none.
create temporary table unlocked on commit drop as
select file_id
from pipeline.files
for no key update skip locked;

update pipeline.files
set
    compared_at = clock_timestamp(),
    difference = compared.difference
from compared
inner join unlocked
    on compared.file_id = unlocked.file_id
inner join pipeline.loads
    on
        compared.load_id = loads.load_id
        and loads.status = 'published'
where files.file_id = compared.file_id;

select
    concat(
        count(*), ' published files were compared with the tables; ', count(difference), ' differ',
        ': ' || string_agg(
            concat_ws(' ', table_name, to_char(file_month, 'YYYY-MM')) || ': ' || difference, ' '
            order by table_name, file_month
        )
    ) as report
from pipeline.files
where compared_at is not null;
