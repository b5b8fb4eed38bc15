drop table public.labels, public.customer_activity, public.customer_profiles;

drop table staging.labels, staging.customer_activity, staging.customer_profiles;

select pipeline.forget_source('labels');

select pipeline.forget_source('customer_activity');

select pipeline.forget_source('customer_profiles');
