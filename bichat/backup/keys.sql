-- The keys store out to a file and back, row by row as JSON, columns by name.

-- name: snapshot
set transaction isolation level repeatable read, read only;
set local statement_timeout = 0;

-- name: out
select to_jsonb(t)::text from bichat_keys.{table} t order by {order};

-- name: lock
-- Nobody makes a key, begins an erasure or takes this store for new meanwhile.
set local statement_timeout = 0;
select pg_advisory_xact_lock(hashtextextended('bichat_keys.master', 0));
lock table bichat_keys.erasures, bichat_keys.data_keys in share row exclusive mode;

-- name: fresh
-- A store in which there is nothing but the master key that it was first opened with forgets that.
delete from bichat_keys.master
where not exists (select from bichat_keys.data_keys) and not exists (select from bichat_keys.signing_keys);

-- name: stage
create temporary table came_{table} (like bichat_keys.{table} including defaults) on commit drop;

-- name: come
insert into came_{table} ({columns})
select {columns} from unnest(%s::text[]) as j(line), jsonb_populate_record(null::bichat_keys.{table}, j.line::jsonb);

-- name: merge_master
insert into bichat_keys.master select * from came_master on conflict (fingerprint) do nothing;

-- name: merge_erasures
-- An erasure that is known here has come further here, if anywhere. That a person is being forgotten is said once.
insert into bichat_keys.erasures
select c.* from came_erasures c
where c.destroyed_at is not null or not exists (
    select from bichat_keys.erasures e
    where (e.tenant_id, e.user_id) = (c.tenant_id, c.user_id) and e.destroyed_at is null)
on conflict do nothing;

-- name: merge_data_keys
-- A key comes back only where nothing is known of it, and nobody was forgotten since it was made.
with new as (
    select c.*, exists (
        select from bichat_keys.erasures e
        where (e.tenant_id, e.user_id) = (c.tenant_id, c.user_id) and e.asked_at >= c.created_at
          and (e.ordered_at is not null or e.destroyed_at is not null)
    ) or c.key_id = any(%(void)s::uuid[]) or exists (
        select from unnest(%(tenants)s::uuid[], %(users)s::text[], %(times)s::timestamptz[])
            as f(tenant_id, user_id, at)
        where (f.tenant_id, f.user_id) = (c.tenant_id, c.user_id) and f.at >= c.created_at
    ) as forgotten
    from came_data_keys c
)
insert into bichat_keys.data_keys (key_id, tenant_id, user_id, generation, master, wrapped, created_at, destroyed_at)
select key_id, tenant_id, user_id, generation, master, case when not forgotten then wrapped end, created_at,
       case when forgotten and destroyed_at is null then clock_timestamp() else destroyed_at end
from new
on conflict do nothing
returning wrapped is not null;

-- name: destroy
-- What was destroyed anywhere is destroyed everywhere.
update bichat_keys.data_keys k set wrapped = null, destroyed_at = c.destroyed_at
from came_data_keys c where c.key_id = k.key_id and c.wrapped is null and k.wrapped is not null;

-- name: in_use
-- A file from before a rotation may bring keys that a retired master wraps: there is something to rotate again.
update bichat_keys.master m set retired_at = null
where retired_at is not null and exists (
    select from bichat_keys.data_keys k where k.master = m.fingerprint and k.wrapped is not null);

-- name: clashes
-- Two stores have given one person keys of the same generation: they were never one store.
select count(*) from came_data_keys c join bichat_keys.data_keys k using (tenant_id, user_id, generation)
where c.key_id <> k.key_id;

-- name: merge_signing_keys
insert into bichat_keys.signing_keys select * from came_signing_keys on conflict (public_key) do nothing;

-- name: merge_anchor
insert into bichat_keys.anchor as a select * from came_anchor
on conflict (one) do update set number = excluded.number, hash = excluded.hash, at = excluded.at
where a.number < excluded.number;

-- name: merge_set_backs
insert into bichat_keys.set_backs select * from came_set_backs on conflict (kept, lost) do nothing;

-- name: masters
select distinct k.master from came_data_keys k where k.wrapped is not null
union select s.master from came_signing_keys s where s.wrapped is not null;
