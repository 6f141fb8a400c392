-- What answers a request asks before it reads.

-- name: configure
set role bichat_reader;
set default_transaction_read_only = on;
set statement_timeout = '10s';
set plan_cache_mode = force_generic_plan;
set timezone = 'UTC';

-- name: bind
select set_config('bichat.tenant', %s, false);

-- name: head
select bichat.head();

-- name: positions
select s.name, s.shape, min(c.position)
from bichat.serving s join bichat.checkpoints c using (name, shape, build)
group by s.name, s.shape;

-- name: builds
select name, shape, build, serves, state, phase, error, position, head, lag_events, lag_seconds, rate, parked,
       runner, running, slices, loaded, updated_at
from bichat.projections();
