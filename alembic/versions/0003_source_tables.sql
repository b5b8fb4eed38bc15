create schema partitions;

comment on schema partitions is 'Partitions of the tables in public; read them through those tables.';

create table public.customer_profiles (
    idx integer not null,
    attr_a integer,
    attr_b text,
    attr_c text
) partition by range (idx);

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
) partition by range (idx);

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
) partition by range (idx);

comment on table public.labels is 'The label that a model learns to predict, exactly as in labels.csv.';
comment on column public.labels.idx is 'Client: customer_profiles.idx.';
comment on column public.labels.label is 'The label, 0 or 1.';

create table public.stores (
    idx integer primary key,
    location text not null
);

comment on table public.stores is 'The stores of the newest stores.csv; every monthly load refreshes it.';
comment on column public.stores.idx is 'Store.';
comment on column public.stores.location is 'Where the store is.';

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

-- No sale is this old. While sales has a partition of another role, mle_user cannot create a row trigger on it,
-- which replace_partitions would run with its owner's rights.
create table partitions.sales_before_all_months
partition of public.sales for values from (minvalue) to ('0001-01-01');

-- All rows of a customer table.
create table partitions.customer_profiles
partition of public.customer_profiles for values from (minvalue) to (maxvalue);

create table partitions.customer_activity
partition of public.customer_activity for values from (minvalue) to (maxvalue);

create table partitions.labels
partition of public.labels for values from (minvalue) to (maxvalue);

-- A table without a key needs it for deletes if a publication includes all tables.
alter table partitions.sales_before_all_months replica identity full;

alter table partitions.customer_profiles replica identity full;

alter table partitions.customer_activity replica identity full;

alter table partitions.labels replica identity full;

-- pipeline.open_to_readers grants them when the table is first published.
revoke all on public.customer_profiles, public.customer_activity, public.labels, public.stores, public.sales
from ds_user_role, mle_user_role;
