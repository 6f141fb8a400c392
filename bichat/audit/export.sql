-- Writing one dialogue with its proof, in the view of its tenant.

-- name: reader
set role bichat_reader;
set default_transaction_read_only = on;
set timezone = 'UTC';

-- name: tenant
-- Whose stream, and its first kind of fact; of what is gone there are leaves only.
(select tenant_id, topic from bichat.stored_events where originator_id = %(stream)s
 order by originator_version limit 1)
union all
(select tenant_id, null from bichat.seal_leaves where stream_id = %(stream)s limit 1)
limit 1;

-- name: leaf
select seal, tenant_id, version, leaf from bichat.seal_leaves where stream_id = %(stream)s
order by version desc, seal desc limit 1;

-- name: rows
select originator_id, originator_version, topic, state, tenant_id, command_id, hash, notification_id, recorded_at
from bichat.stored_events where originator_id = %(stream)s and originator_version <= %(upto)s
order by originator_version;
