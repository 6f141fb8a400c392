-- Rebuilds that were asked for over HTTP.

-- name: allow
set transaction read write;

-- name: request
select * from bichat.request_rebuild(%s, %s, %s, %s);

-- name: waiting
select b.name from bichat.builds b
join unnest(%s::text[], %s::int[]) as known(name, shape) using (name, shape)
where b.by_ops and b.phase in ('requested', 'loading', 'indexing', 'following', 'verifying')
  and not exists (
    -- Whoever rebuilds holds this lock; looked for and not tried, so that nobody finds it taken by us.
    select from pg_locks l
    where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
      and l.database = (select oid from pg_database where datname = current_database())
      and l.classid::bigint << 32 | l.objid::bigint = hashtextextended('bichat.rebuild.' || b.name, 0))
order by b.started_at, b.name;
