-- Who works on the log beside those that serve.

-- name: configure
-- As many processors as were asked for with `--jobs`: not workers of Postgres besides.
set max_parallel_workers_per_gather = 0;
set max_parallel_maintenance_workers = 0;
