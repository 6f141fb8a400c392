-- Writing one dialogue with its proof, in the view of its tenant.

-- name: tenant
-- Whose stream, and its first kind of fact; of what is gone there are leaves only.
(select tenant_id, topic from bichat.stored_events where originator_id = %(stream)s
 order by originator_version limit 1)
union all
(select tenant_id, null from bichat.seal_leaves where stream_id = %(stream)s limit 1)
limit 1;

-- name: ends
-- The newest leaf of a stream, with its seal and that one's leaves.
select l.tenant_id, l.version, l.leaf, s.number, s.position, s.events, s.streams, s.at, s.root, s.previous,
    s.public_key, s.signature, s.hash, array(select bichat.leaves_of(s.number))
from bichat.seals s join (
    select seal, tenant_id, version, leaf from bichat.seal_leaves where stream_id = %(stream)s
    order by version desc, seal desc limit 1
) l on l.seal = s.number;
