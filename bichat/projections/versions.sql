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

-- name: done
update bichat.builds set phase = 'done', by_ops = false, error = '', updated_at = clock_timestamp()
where (name, shape, build) = (%s, %s, %s);

-- name: begin
insert into bichat.checkpoints (name, shape, build, fold, state) values (%s, %s, %s, %s, %s)
on conflict do nothing;

-- name: followed
select build from bichat.checkpoints
where name = %s and shape = %s and fold <= %s and state <> 'building' order by build;

-- name: kept
select c.build from bichat.checkpoints c
where c.name = %s and c.shape = %s and c.state <> 'building'
  and not exists (select from bichat.serving s where (s.name, s.shape, s.build) = (c.name, c.shape, c.build))
  and not exists (select from bichat.builds b
                  where (b.name, b.shape, b.build) = (c.name, c.shape, c.build) and b.phase <> 'done')
order by c.build desc;

-- name: patience
set local lock_timeout = '2s';

-- name: hurry
-- Who reads waits behind us for so long, each time we try.
set local lock_timeout = '50ms';

-- name: stop
select build, position from bichat.checkpoints
where name = %s and shape = %s and build = any(%s::int[]) order by build for update;

-- name: forget_checkpoint
delete from bichat.checkpoints where (name, shape, build) = (%s, %s, %s);

-- name: forget_build
delete from bichat.builds where (name, shape, build) = (%s, %s, %s);

-- name: forget_parked
delete from bichat.parked where (name, shape, build) = (%s, %s, %s);

-- name: forget_serving
delete from bichat.serving where (name, shape, build) = (%s, %s, %s);

-- name: abandoned
select name, shape, build from bichat.builds b join bichat.checkpoints c using (name, shape, build)
where c.state = 'building' and b.phase <> 'requested' and b.started_at < %s
  and not bichat.held('bichat.rebuild.' || name);

-- name: claim
-- As a rebuild claims its read model.
select pg_try_advisory_xact_lock(hashtextextended('bichat.rebuild.' || %s, 0));

-- name: named
select serves,
       phase not in ('done', 'failed') and bichat.held('bichat.rebuild.' || name),
       running
from bichat.projections() where (name, shape, build) = (%s, %s, %s);

-- name: tables
select format('%%I.%%I', schemaname, tablename) from pg_tables
where schemaname = 'bichat' and tablename ~ %s order by tablename;

-- name: drop
drop table {table};

-- name: drop_all
drop table {table} cascade;
