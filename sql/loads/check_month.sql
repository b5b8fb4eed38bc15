-- Checks a staged file of a month against the stores.csv of its run: only a checked load can be published.
--
-- Reads       pipeline.group_totals: what :load holds by store; the staged rows of :stores_load; stores, which has
--             those of older lists
-- Writes      pipeline.loads: the verdicts
-- Idempotent  Yes. The same rows get the same verdict. One transaction; pipeline.require_checked raises the verdict in
--             a second one, so that the ledger keeps it.

select pipeline.open_staged(%(load)s::bigint, 'staged_month');

select pipeline.open_staged(%(stores_load)s::bigint, 'staged_stores');

with unknown_stores as (
    select
        of_store.group_key as store_idx,
        of_store.row_count,
        of_store.min_key as min_idx
    from pipeline.group_totals as of_store
    where
        of_store.load_id = %(load)s::bigint
        and not exists (
            select
            from staged_stores
            where staged_stores.idx = of_store.group_key
        )
        and not exists (
            select
            from public.stores
            where stores.idx = of_store.group_key
        )
),

ambiguous_stores as (
    select idx
    from staged_stores
    group by idx
    having count(distinct location) > 1
),

listed_stores as (
    select count(*) as row_count
    from staged_stores
),

-- One row for each kind of error, with the first few rows that have it.
errors (load_id, error) as (
    select
        %(load)s::bigint as load_id,
        concat(
            'rows whose store is not in stores.csv: ', sum(row_count), ', the first of them: ',
            (
                select string_agg(concat('idx ', first_few.min_idx, ' of store ', first_few.store_idx), ', ')
                from (
                    select
                        store_idx,
                        min_idx
                    from unknown_stores
                    order by min_idx, store_idx
                    limit 5
                ) as first_few
            )
        ) as error
    from unknown_stores
    having count(*) > 0

    union all

    select
        %(stores_load)s::bigint as load_id,
        concat(
            'stores with more than one location: ', count(*), ', the first of them: ', min(idx)
        ) as error
    from ambiguous_stores
    having count(*) > 0

    union all

    select
        %(stores_load)s::bigint as load_id,
        'the list of stores has no rows' as error
    from listed_stores
    where row_count = 0
)

select pipeline.check_load(given.load_id, string_agg(errors.error, '; '))
-- As publishing locks them.
from (values (1, %(load)s::bigint), (2, %(stores_load)s::bigint)) as given (place, load_id)
left join errors
    on given.load_id = errors.load_id
group by given.place, given.load_id
order by given.place;

drop view staged_month, staged_stores;
