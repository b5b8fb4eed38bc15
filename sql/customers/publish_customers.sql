-- Publishes the three customer files in one transaction.
--
-- Reads   the checked rows of :profiles_load, :activity_load and :labels_load
-- Writes  customer_profiles, customer_activity, labels, all of them; pipeline.loads: that the loads are published
-- Twice?  Yes. A load that is published already is left as it is. A second run waits for the first.

select pipeline.publish_load(%(profiles_load)s::bigint);

select pipeline.publish_load(%(activity_load)s::bigint);

select pipeline.publish_load(%(labels_load)s::bigint);

-- From here to the end of the transaction readers of the tables may wait, for milliseconds.
select pipeline.replace_partitions(%(profiles_load)s::bigint, %(activity_load)s::bigint, %(labels_load)s::bigint);
