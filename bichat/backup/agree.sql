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
-- The last one of each person takes whatever an older log has brought back. It was done, but not here.
update bichat_keys.erasures set destroyed_at = null, done_at = null
where not erasure_id = any(%s) and ordered_at is not null and erasure_id in (
    select distinct on (tenant_id, user_id) erasure_id from bichat_keys.erasures
    order by tenant_id, user_id, asked_at desc);

-- name: under_way
select erasure_id from bichat_keys.erasures where done_at is null order by asked_at;

-- name: changed
update bichat_keys.changes set number = number + 1;
