-- What the log and the register of erasures know of each other.

-- name: there
select to_regclass('bichat.void_keys') is not null;

-- name: has_events
select exists (select from bichat.stored_events);

-- name: void
select key_id from bichat.void_keys;

-- name: destroy
-- What the log calls void was destroyed, or was about to be.
update bichat_keys.data_keys set wrapped = null, destroyed_at = clock_timestamp()
where key_id = any(%s) and wrapped is not null;

-- name: drop
-- Asked for, and the log has no order: nobody was told that it would be done.
delete from bichat_keys.erasures where ordered_at is null and not erasure_id = any(%s);

-- name: ordered
update bichat_keys.erasures set ordered_at = asked_at where ordered_at is null and erasure_id = any(%s);

-- name: destroyed
-- The keys that it was about are void in the log. It keeps no later one of its person out of the register.
update bichat_keys.erasures set destroyed_at = clock_timestamp() where destroyed_at is null and erasure_id = any(%s);

-- name: register
insert into bichat_keys.erasures (
    erasure_id, tenant_id, user_id, actor_kind, actor_id, asked_at, ordered_at, destroyed_at, done_at, dialogues, keys)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict do nothing;

-- name: reopen
-- The last one of each person takes whatever an older log has brought back. It was done, but not here.
update bichat_keys.erasures set destroyed_at = null, done_at = null
where not erasure_id = any(%s) and erasure_id in (
    select distinct on (tenant_id, user_id) erasure_id from bichat_keys.erasures where ordered_at is not null
    order by tenant_id, user_id, asked_at desc);

-- name: under_way
select erasure_id from bichat_keys.erasures where done_at is null order by asked_at;
