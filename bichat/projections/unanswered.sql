-- The read model `replies` as ops see it: what waits, runs or failed, who works on it, and what is parked.

-- name: page
-- For who reads as one tenant, the policy on the table finds the index.
select r.message_id, r.dialogue_id, r.tenant_id, r.user_id, r.position, r.status as state, r.asked_at,
       r.updated_at, r.attempt as attempts, r.tries, r.off_peak, r.code, r.detail, l.holder, p.parked_at
from bichat.replies_vN r
left join bichat.reply_leases l
    on l.message_id = r.message_id and l.holder <> '' and l.expires_at > clock_timestamp()
left join (bichat.parked p join bichat.serving s using (name, shape, build))
    on name = 'replies' and shape = %(shape)s and p.dialogue_id = r.dialogue_id
where (%(tenant_id)s::uuid is null or r.tenant_id = %(tenant_id)s)
  and r.status = any(%(states)s) and r.position > %(after)s
order by r.position limit %(limit)s;

-- name: find
select dialogue_id, tenant_id from bichat.replies_vN
where message_id = %(message_id)s and (%(tenant_id)s::uuid is null or tenant_id = %(tenant_id)s);

-- name: parked
select p.dialogue_id from bichat.parked p join bichat.serving s using (name, shape, build)
where name = 'replies' and shape = %(shape)s and p.dialogue_id > %(after)s
order by p.dialogue_id limit %(limit)s;

-- name: worked_on
select message_id from bichat.reply_leases
where message_id = any(%s) and holder <> '' and expires_at > clock_timestamp();

-- name: later
-- The questions of these dialogues that wait for the quiet hours.
select dialogue_id, message_id from bichat.replies_vN
where tenant_id = %(tenant_id)s and user_id = %(user_id)s and dialogue_id = any(%(dialogues)s) and later;
