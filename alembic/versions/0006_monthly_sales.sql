create table public.monthly_sales (
    store_idx integer not null,
    location text not null,
    sale_month date not null check (extract(day from sale_month) = 1),
    value numeric not null,
    primary key (sale_month, store_idx)
) with (vacuum_truncate = off);

comment on table public.monthly_sales is
'Sum of the sales of each store and month; a store without sales in a month has no row for it. A load deletes and
inserts the rows of its month, so a foreign key onto this table stops it: refer to stores instead.';
comment on column public.monthly_sales.store_idx is 'Store: stores.idx.';
comment on column public.monthly_sales.location is 'Where the store was when the month was last published.';
comment on column public.monthly_sales.sale_month is 'First day of the month.';
comment on column public.monthly_sales.value is 'Exact sum of sales.value.';

create table pipeline.sales_by_store (
    load_id bigint not null,
    store_idx integer not null,
    row_count bigint not null,
    first_sale integer not null,
    last_date date not null,
    total numeric not null,
    primary key (load_id, store_idx)
);

comment on table pipeline.sales_by_store is
'What each load of a sales file holds, by store; kept until a newer load of the month is published.';
comment on column pipeline.sales_by_store.load_id is 'The load: loads.load_id.';
comment on column pipeline.sales_by_store.store_idx is 'Store of the sales.';
comment on column pipeline.sales_by_store.row_count is 'Number of sales.';
comment on column pipeline.sales_by_store.first_sale is 'Smallest idx of the sales, to find them in the file.';
comment on column pipeline.sales_by_store.last_date is 'Latest day of the sales.';
comment on column pipeline.sales_by_store.total is 'Exact sum of the sales.';

create view pipeline.published_sales_by_store as
select
    loads.sale_month,
    sales_by_store.store_idx,
    sales_by_store.row_count,
    sales_by_store.first_sale,
    sales_by_store.total
from pipeline.sales_by_store
inner join pipeline.loads
    on sales_by_store.load_id = loads.load_id
where loads.outcome = 'published';

comment on view pipeline.published_sales_by_store is 'The sums of the published file of each month, by store.';
comment on column pipeline.published_sales_by_store.sale_month is 'First day of the month.';
comment on column pipeline.published_sales_by_store.store_idx is 'Store of the sales.';
comment on column pipeline.published_sales_by_store.row_count is 'Number of sales.';
comment on column pipeline.published_sales_by_store.first_sale is 'Smallest idx of the sales.';
comment on column pipeline.published_sales_by_store.total is 'Exact sum of the sales.';

grant select on pipeline.published_sales_by_store to pipeline;

grant select, insert, delete on pipeline.sales_by_store to pipeline;

grant select, insert, delete on public.monthly_sales to pipeline;
