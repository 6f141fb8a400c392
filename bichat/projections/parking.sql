-- Dialogues that a build could not digest, from one of their events on.

-- name: waiting
-- Asked under the lock of the checkpoint, in a statement of its own: that of the lock may have waited for a
-- retry, and would still see what it has taken away.
select exists (select from bichat.serving s where (s.name, s.shape, s.build) = (%(name)s, %(shape)s, %(build)s)),
       array(select p.dialogue_id from bichat.parked p
             where (p.name, p.shape, p.build) = (%(name)s, %(shape)s, %(build)s)
               and p.dialogue_id = any(%(dialogues)s::uuid[]));

-- name: park
insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version, error)
values (%s, %s, %s, %s, %s, %s, %s, %s);

-- name: parked
select dialogue_id, tenant_id, position, version, error from bichat.parked
where (name, shape, build) = (%s, %s, %s) order by position;

-- name: hold
-- Whoever follows waits: no event can come in between what is replayed and what follows live.
select position from bichat.checkpoints
where name = %s and shape = %s and build = %s and partition = 0 for update;

-- name: one
select dialogue_id, tenant_id, position, version, error from bichat.parked
where (name, shape, build, dialogue_id) = (%s, %s, %s, %s) for update;

-- name: tried
update bichat.parked set position = %s, version = %s, error = %s, tried_at = clock_timestamp()
where (name, shape, build, dialogue_id) = (%s, %s, %s, %s);

-- name: unpark
delete from bichat.parked where (name, shape, build, dialogue_id) = (%s, %s, %s, %s);

-- name: everywhere
select name, shape, build, dialogue_id, tenant_id, version, parked_at, tried_at, error
from bichat.parked order by name, shape, build, position;

-- name: erased
select originator_version, notification_id from bichat.stored_events
where originator_id = %s and originator_version >= %s and topic = 'TextErased' and notification_id <= %s
order by originator_version desc limit 1;
