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

-- name: register
insert into bichat_keys.erasures (
    erasure_id, tenant_id, user_id, actor_kind, actor_id, asked_at, ordered_at, destroyed_at, done_at, dialogues, keys)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict do nothing;

-- name: reopen
-- Done once, but not as far as this log knows. Their keys are destroyed, and stay so.
update bichat_keys.erasures set done_at = null
where ordered_at is not null and done_at is not null and not erasure_id = any(%s);

-- name: unfinished
select erasure_id, tenant_id, user_id, actor_kind, actor_id from bichat_keys.erasures
where ordered_at is not null and done_at is null order by asked_at;

-- name: changed
update bichat_keys.changes set number = number + 1;
