-- Which builds of read models there are, and which one each view shows.

-- name: lock
select pg_advisory_xact_lock(hashtextextended('bichat.serving', 0));

-- name: serving
select build from bichat.serving where name = %s and shape = %s;

-- name: guard
alter table {table} enable row level security;
create policy tenant on {table} for select to bichat_reader
    using (tenant_id = nullif(current_setting('bichat.tenant', true), '')::uuid);
grant select on {table} to bichat_reader;

-- name: show
create or replace view {view} with (security_invoker = true) as select * from {table};
grant select on {view} to bichat_reader;

-- name: serve
insert into bichat.serving (name, shape, build) values (%s, %s, %s)
on conflict (name, shape) do update set build = excluded.build;

-- name: begin
insert into bichat.checkpoints (name, shape, build) values (%s, %s, %s) on conflict do nothing;

-- name: followed
select build from bichat.checkpoints where name = %s and shape = %s and state <> 'building' order by build;
