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

-- What a file must look like: its columns, their types, and the rules that one row can break.
create table staging.customer_profiles (like public.customer_profiles including comments including constraints);

comment on table staging.customer_profiles is 'The columns of customer_profiles.csv. Each load has a table like it.';

create table staging.customer_activity (like public.customer_activity including comments including constraints);

comment on table staging.customer_activity is 'The columns of customer_activity.csv. Each load has a table like it.';

create table staging.labels (like public.labels including comments including constraints);

comment on table staging.labels is 'The columns of labels.csv. Each load has a table like it.';

insert into pipeline.sources (table_name, file_path, key_column, date_column, amount_column, published_with) values
('customer_profiles', 'customer_profiles.csv', 'idx', null, null, null),
('customer_activity', 'customer_activity.csv', 'idx', 'valid_from', null, 'customer_profiles'),
('labels', 'labels.csv', 'idx', null, 'label', 'customer_profiles');

select pipeline.prepare_source(table_name)
from unnest(array['customer_profiles', 'customer_activity', 'labels']) as added (table_name);

-- Undo

drop table public.labels, public.customer_activity, public.customer_profiles;

drop table staging.labels, staging.customer_activity, staging.customer_profiles;

select pipeline.forget_source(table_name)
from unnest(array['labels', 'customer_activity', 'customer_profiles']) as added (table_name);
