-- Compares the tables with the ledger: what was published must still stand there.
--
-- Reads       the tables of pipeline.sources, one file per query; monthly_sales; pipeline.loads
-- Writes      pipeline.files: what was found, and when; the next publication of the file clears it
-- Idempotent  Yes. It finds the same again. A file that is requested or published meanwhile is left out.

create temporary table compared on commit drop as
with published as (
    select
        loads.load_id,
        loads.file_id,
        files.table_name,
        files.file_month
    from pipeline.loads
    inner join pipeline.files
        on loads.file_id = files.file_id
    where loads.status = 'published'
),

changed_sums as (
    select
        coalesce(sums.sale_month, monthly_sales.sale_month) as sale_month,
        concat(
            'monthly_sales has other sums than the published file for ', count(*), ' stores, the first of them: store ',
            min(coalesce(sums.store_idx, monthly_sales.store_idx)), '.'
        ) as difference
    from pipeline.published_sales_by_store as sums
    full join public.monthly_sales
        on
            sums.sale_month = monthly_sales.sale_month
            and sums.store_idx = monthly_sales.store_idx
    where sums.total is distinct from monthly_sales.value
    group by coalesce(sums.sale_month, monthly_sales.sale_month)
)

select
    published.load_id,
    published.file_id,
    nullif(concat_ws(' ', pipeline.compare_load(published.load_id), changed_sums.difference), '') as difference
from published
left join changed_sums
    on
        published.table_name = 'sales'
        and published.file_month = changed_sums.sale_month;

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
