-- Rebuilds that were asked for over HTTP.

-- name: allow
set transaction read write;

-- name: request
select * from bichat.request_rebuild(%s, %s, %s);

-- name: waiting
-- Of newer code's builds this code keeps away. Whoever rebuilds holds the lock.
select b.name from bichat.builds b
join bichat.checkpoints c using (name, shape, build)
join unnest(%s::text[], %s::int[], %s::int[]) as known(name, shape, fold) using (name, shape)
where b.by_ops and b.phase in ('requested', 'loading', 'indexing', 'following', 'verifying')
  and c.fold <= known.fold and not bichat.held('bichat.rebuild.' || b.name)
order by b.started_at, b.name;
