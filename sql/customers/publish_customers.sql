-- Publishes the three customer files in one transaction: deletes all rows of their tables and inserts the staged ones.
--
-- Reads       the staged rows of :profiles_load, :activity_load and :labels_load
-- Writes      customer_profiles, customer_activity, labels: all rows; pipeline.loads: that the loads are published
-- Idempotent  Yes. The same loads give the same rows. Loads that are published already, or that those of a later run
--             have superseded, stop at the first statement and change nothing.

start transaction;

-- No migration changes a table until the end. Readers pass.
lock table public.customer_profiles, public.customer_activity, public.labels in row exclusive mode;

-- Of two runs, the request for the profiles decides for all three files.
select pipeline.publish_load(%(profiles_load)s::bigint);

select pipeline.publish_load(%(activity_load)s::bigint);

select pipeline.publish_load(%(labels_load)s::bigint);

select pipeline.open_staged(%(profiles_load)s::bigint, 'staged_profiles');

select pipeline.open_staged(%(activity_load)s::bigint, 'staged_activity');

select pipeline.open_staged(%(labels_load)s::bigint, 'staged_labels');

delete from public.customer_profiles;

insert into public.customer_profiles
select *
from staged_profiles;

delete from public.customer_activity;

insert into public.customer_activity
select *
from staged_activity;

delete from public.labels;

insert into public.labels
select *
from staged_labels;

-- Lost rows and a policy that hides rows end here: what stands in the tables is what was checked.
select pipeline.verify_load(%(profiles_load)s::bigint, 'customer_profiles', count(*))
from public.customer_profiles;

select pipeline.verify_load(%(activity_load)s::bigint, 'customer_activity', count(*))
from public.customer_activity;

select pipeline.verify_load(%(labels_load)s::bigint, 'labels', count(*), sum(label))
from public.labels;

drop view staged_profiles, staged_activity, staged_labels;

select pipeline.drop_staged(%(profiles_load)s::bigint);

select pipeline.drop_staged(%(activity_load)s::bigint);

select pipeline.drop_staged(%(labels_load)s::bigint);

commit;
