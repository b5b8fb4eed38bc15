drop table public.monthly_sales, public.sales, public.stores;

drop table staging.sales, staging.stores;

select pipeline.forget_source('sales');

select pipeline.forget_source('stores');
