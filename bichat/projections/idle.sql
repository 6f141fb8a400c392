-- Dialogues that nobody uses.

-- name: lock
-- One process at a time; the lock goes with the connection.
select pg_try_advisory_lock(hashtextextended('bichat.archiving', 0));

-- name: step
-- A walk through all dialogues in the order of their ids, so that no index is kept for it; one row at least
-- while there are more, and in each where the next step begins.
with step as materialized (
    select id, tenant_id, version, message_count,
           state = 'active' and updated_at < %(before)s
           and (status is null or status not in ('waiting', 'running')) as idle
    from bichat.dialogues_vN where id > %(after)s order by id limit %(limit)s
), place as (
    select id from step order by id desc limit 1
)
select place.id, step.id, step.tenant_id, step.version, step.message_count
from place left join step on step.idle
order by step.id;
