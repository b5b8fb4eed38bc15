create table public.stores (
    idx integer primary key,
    location text not null
);

comment on table public.stores is
'Every store that a published stores.csv had, with its newest location; stores are never deleted.';
comment on column public.stores.idx is 'Store.';
comment on column public.stores.location is 'Where the store is, by the newest stores.csv that has it.';

create table public.sales (
    idx integer not null,
    value numeric not null,
    date date not null,
    store_idx integer not null
) partition by range (date);

comment on table public.sales is
'Daily sales, exactly as in the monthly files. One partition per month: name the dates to read only their months.';
comment on column public.sales.idx is 'Index of the sale, as in the file.';
comment on column public.sales.value is 'Amount sold that day, exact; negative for a refund.';
comment on column public.sales.date is 'Day of the sale.';
comment on column public.sales.store_idx is 'Store of the sale: stores.idx.';

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

-- What a file must look like. Without the key: a file may repeat a row, and the check decides.
create table staging.stores (like public.stores including comments including constraints);

comment on table staging.stores is 'The columns of stores.csv. Each load has a table like it.';

create table staging.sales (like public.sales including comments including constraints);

comment on table staging.sales is 'The columns of sales.csv. Each load has a table like it.';

insert into pipeline.sources (table_name, file_path, key_column, is_cumulative) values
('stores', 'stores.csv', 'idx', true);

insert into pipeline.sources (
    table_name, file_path, key_column, date_column, amount_column, group_column, derived_tables
) values
('sales', 'sales/YYYY-MM-01/sales.csv', 'idx', 'date', 'value', 'store_idx', '{monthly_sales}');

select pipeline.prepare_source(table_name)
from unnest(array['stores', 'sales']) as added (table_name);

-- Undo

drop table public.monthly_sales, public.sales, public.stores;

drop table staging.sales, staging.stores;

select pipeline.forget_source(table_name)
from unnest(array['sales', 'stores']) as added (table_name);
