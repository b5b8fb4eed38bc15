create schema partitions;

comment on schema partitions is 'Partitions of the tables in public; read them through those tables.';

create schema staging;

comment on schema staging is 'Files as they were downloaded, before they are published: one table per load.';

create table public.customer_profiles (
    idx integer not null,
    attr_a integer,
    attr_b text,
    attr_c text
) with (vacuum_truncate = off);

comment on table public.customer_profiles is 'Profile of each client, exactly as in customer_profiles.csv.';
comment on column public.customer_profiles.idx is 'Client.';
comment on column public.customer_profiles.attr_a is 'Profile attribute a, a whole number.';
comment on column public.customer_profiles.attr_b is 'Profile attribute b, one letter.';
comment on column public.customer_profiles.attr_c is
'Profile attribute c, up to three characters; not part of the feature store.';

create table public.customer_activity (
    idx integer not null,
    valid_from date not null,
    valid_to date,
    scd_a double precision,
    scd_b integer
) with (vacuum_truncate = off);

comment on table public.customer_activity is
'Activity of each client with the days on which it was valid, exactly as in customer_activity.csv.';
comment on column public.customer_activity.idx is 'Client: customer_profiles.idx.';
comment on column public.customer_activity.valid_from is 'First day on which the row is valid.';
comment on column public.customer_activity.valid_to is
'Day on which the row stopped being valid; null for the current row.';
comment on column public.customer_activity.scd_a is 'Slowly changing attribute a.';
comment on column public.customer_activity.scd_b is 'Slowly changing attribute b, a whole number.';

create table public.labels (
    idx integer not null,
    label integer not null,
    constraint "the label is 0 or 1" check (label in (0, 1))
) with (vacuum_truncate = off);

comment on table public.labels is 'The label that a model learns to predict, exactly as in labels.csv.';
comment on column public.labels.idx is 'Client: customer_profiles.idx.';
comment on column public.labels.label is 'The label, 0 or 1.';

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

-- No sale is this old. While sales has a partition on which mle_user has no privileges, mle_user cannot create a row
-- trigger on it, which would slow a load down by as many calls as there are rows.
create table partitions.sales_before_all_months
partition of public.sales for values from (minvalue) to ('0001-01-01');

-- A table without a key needs it for deletes if a publication includes all tables.
alter table partitions.sales_before_all_months replica identity full;

alter table public.customer_profiles replica identity full;

alter table public.customer_activity replica identity full;

alter table public.labels replica identity full;

-- What a file must look like: its columns, their types, and the rules that one row can break.
create table staging.customer_profiles (like public.customer_profiles including comments including constraints);

comment on table staging.customer_profiles is 'The columns of customer_profiles.csv. Each load has a table like it.';

create table staging.customer_activity (like public.customer_activity including comments including constraints);

comment on table staging.customer_activity is 'The columns of customer_activity.csv. Each load has a table like it.';

create table staging.labels (like public.labels including comments including constraints);

comment on table staging.labels is 'The columns of labels.csv. Each load has a table like it.';

-- Without the key: a file may repeat a row, and the check decides.
create table staging.stores (like public.stores including comments including constraints);

comment on table staging.stores is 'The columns of stores.csv. Each load has a table like it.';

create table staging.sales (like public.sales including comments including constraints);

comment on table staging.sales is 'The columns of sales.csv. Each load has a table like it.';

grant usage on schema staging to pipeline;

grant select, insert, delete
on public.customer_profiles, public.customer_activity, public.labels, public.sales
to pipeline;

grant select, insert, update on public.stores to pipeline;
