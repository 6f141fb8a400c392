-- How far a build has read the log.

-- name: configure
set synchronous_commit = off;
set timezone = 'UTC';
-- The locks of a process that was killed go within a second, where the server can see that.
do $$
begin
    set client_connection_check_interval = '1s';
exception when others then null;
end
$$;
-- Where the server has it: pages of text cost it a third less than with its own method.
select set_config('default_toast_compression', 'lz4', false) from pg_settings
where name = 'default_toast_compression' and 'lz4' = any(enumvals);
set plan_cache_mode = force_generic_plan;
set lock_timeout = '10s';
set tcp_keepalives_idle = 5;
set tcp_keepalives_interval = 2;
set tcp_keepalives_count = 3;

-- name: lock
select pg_try_advisory_lock(hashtextextended('bichat.' || %s, 0));

-- name: advance
update bichat.checkpoints
set position = %s, rate = %s, takeovers = 0, trying = null, updated_at = clock_timestamp()
where name = %s and shape = %s and build = %s and partition = 0 and position = %s;

-- name: stopped
update bichat.checkpoints set state = 'stopped', error = %s, trying = null, updated_at = clock_timestamp()
where name = %s and shape = %s and build = %s and partition = 0 and state <> 'building';

-- name: well
-- After the first look at the log: whoever died before did not die of what comes next.
update bichat.checkpoints
set state = case state when 'stopped' then 'live' else state end, error = '', takeovers = 0, trying = null,
    updated_at = clock_timestamp()
where name = %s and shape = %s and build = %s and partition = 0 and (state = 'stopped' or takeovers > 0);
