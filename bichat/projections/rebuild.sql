-- Making a new build of a read model, step by step; each step leaves a mark to go on from.

-- name: claim
select pg_try_advisory_lock(hashtextextended('bichat.rebuild.' || %s, 0));

-- name: unfinished
select b.build, b.phase, c.fold, b.fence, b.bounds, b.loaded, b.events, b.runner, b.started_at::text
from bichat.builds b join bichat.checkpoints c using (name, shape, build)
where b.name = %s and b.shape = %s and b.phase <> 'done'
order by b.build desc limit 1;

-- name: fold
-- Of the builds that are finished.
select coalesce(max(c.fold), 0) from bichat.checkpoints c left join bichat.builds b using (name, shape, build)
where c.name = %s and c.shape = %s and coalesce(b.phase, 'done') = 'done';

-- name: begin
select bichat.new_build(%s, %s, %s, false);

-- name: cut
update bichat.builds
set phase = 'loading', fence = %s, bounds = %s, runner = %s, error = '', updated_at = clock_timestamp()
where (name, shape, build) = (%s, %s, %s);

-- name: loaded
update bichat.builds
set loaded = loaded || %(slice)s::int, events = events + %(events)s, updated_at = clock_timestamp()
where (name, shape, build) = (%(name)s, %(shape)s, %(build)s) and not %(slice)s = any(loaded);

-- name: phase
update bichat.builds set phase = %s, error = %s, runner = %s, updated_at = clock_timestamp()
where (name, shape, build) = (%s, %s, %s);

-- name: index_fast
select set_config('maintenance_work_mem', '256MB', true),
    set_config('max_parallel_maintenance_workers', %s, true);

-- name: analyze
analyze {table};

-- name: follow
with done as (
    update bichat.builds set phase = 'following', updated_at = clock_timestamp()
    where (name, shape, build) = (%s, %s, %s)
    returning name, shape, build, fence
)
update bichat.checkpoints c
set position = done.fence, state = 'live', error = '', updated_at = clock_timestamp()
from done where (c.name, c.shape, c.build) = (done.name, done.shape, done.build);

-- name: unfollow
-- But never what is being read.
update bichat.checkpoints c set state = 'building', updated_at = clock_timestamp()
where (name, shape, build) = (%s, %s, %s) and not exists (
    select from bichat.serving s where (s.name, s.shape, s.build) = (c.name, c.shape, c.build));

-- name: refuse
-- Not to be gone on with until somebody says so.
update bichat.builds set phase = 'following', by_ops = false, error = %s, updated_at = clock_timestamp()
where (name, shape, build) = (%s, %s, %s);

-- name: standing
select bichat.held('bichat.' || %(id)s), position, bichat.head(), error from bichat.checkpoints
where (name, shape, build) = (%(name)s, %(shape)s, %(build)s);

-- name: parks_more
select count(*) from bichat.parked new
where (new.name, new.shape, new.build) = (%(name)s, %(shape)s, %(build)s) and not exists (
    select from bichat.parked old join bichat.serving s using (name, shape, build)
    where old.name = new.name and old.dialogue_id = new.dialogue_id);
