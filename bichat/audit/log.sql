-- What auditors read of the log, on connections that see one tenant's rows and nothing else.

-- name: plan
-- For these values, not for an average tenant's: one may have a million events, and most a hundred.
set local plan_cache_mode = force_custom_plan;

-- name: stream
-- A part of one stream: at most so many rows and bytes, but at least one row if there is any.
select originator_id, originator_version, topic, state, tenant_id, command_id, hash, notification_id, recorded_at
from (
    select *, sum(octet_length(state)) over (order by originator_version {order} rows unbounded preceding)
        - octet_length(state) as before
    from (
        select * from bichat.stored_events
        where tenant_id = %(tenant)s and originator_id = %(stream)s
          and originator_version > %(after)s and originator_version <= %(upto)s {filter}
        order by originator_version {order} limit %(limit)s
    ) next
) counted
where before < %(bytes)s order by originator_version {order};

-- name: kinds
and topic = any(%(kinds)s)

-- name: about
-- Only what names a message: ids are not sealed. The server need not take `state` apart.
and position(%(message)s in state) > 0

-- name: chained
-- The same, from its start on, each with the hash of the event before it.
select originator_id, originator_version, topic, state, tenant_id, command_id, hash, notification_id, recorded_at, (
    select b.hash from bichat.stored_events b where b.tenant_id = %(tenant)s
      and b.originator_id = counted.originator_id and b.originator_version = counted.originator_version - 1
)
from (
    select *, sum(octet_length(state)) over (order by {place}) - octet_length(state) as before
    from (
        select * from bichat.stored_events
        where tenant_id = %(tenant)s and {filter}
        order by {place} limit %(limit)s
    ) next
) counted
where before < %(bytes)s order by {place};

-- name: events
originator_id = %(stream)s and originator_version > %(after)s

-- name: feed
notification_id > %(after)s and notification_id <= %(end)s

-- name: filtered
-- Compared as rows, so that the index on the positions of all tenants is of no use: in that one, what is
-- wanted may be far apart.
(tenant_id, {columns}, notification_id) > (%(tenant)s, {values}, %(after)s)
and (tenant_id, {columns}, notification_id) <= (%(tenant)s, {values}, %(end)s)

-- name: position_at
select bichat.position_at(%(moment)s);

-- name: tenants
-- Two of them, if there are two. Under zeros it is recorded that the whole log was checked.
(select tenant_id from bichat.stored_events where tenant_id > %(zeros)s order by tenant_id limit 1)
union (select tenant_id from bichat.stored_events where tenant_id > %(zeros)s order by tenant_id desc limit 1);
