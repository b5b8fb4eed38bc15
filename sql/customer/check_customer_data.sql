-- Refuses staged customer files that must not be published.
--
-- Reads   staging.customer_profiles, staging.labels
-- Writes  nothing
-- Twice?  Yes. Staging keeps the rows, so that they can be looked at.

with contradicted as (
    select idx
    from staging.customer_profiles
    group by idx
    having count(distinct row(attr_a, attr_b, attr_c)) > 1
)

select
    pipeline.refuse(concat(
        'customer_profiles.csv: ',
        count(*),
        ' clients have two different profiles (',
        min(idx),
        ' is one). The feature',
        ' store needs one a client, so all customer tables stay as they were. Look at staging.customer_profiles;',
        ' when the file is mended, clear this run.'
    ))
from contradicted
having count(*) > 0;

with contradicted as (
    select idx
    from staging.labels
    group by idx
    having count(distinct label) > 1
)

select
    pipeline.refuse(concat(
        'labels.csv: ', count(*), ' clients have both labels (', min(idx), ' is one). The feature store needs one a',
        ' client, so all customer tables stay as they were. Look at them in staging.labels; when the file is mended,',
        ' clear this run.'
    ))
from contradicted
having count(*) > 0;

select
    pipeline.refuse(concat(
        'labels.csv: ', count(*), ' rows have a label other than 0 and 1 (client ', min(idx), ' is one). All customer',
        ' tables stay as they were. Look at them in staging.labels; when the file is mended, clear this run.'
    ))
from staging.labels
where label not in (0, 1)
having count(*) > 0;
