-- A restore, from its beginning to its end.

-- name: claim
select pg_try_advisory_lock(hashtextextended('bichat.restore', 0));

-- name: others
-- Whoever else of bichat's has a connection here now.
select application_name || ', process ' || pid || coalesce(' at ' || client_addr, '') from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and application_name like 'bichat%'
order by backend_start limit 1;

-- name: there
select to_regclass('bichat.stored_events') is not null, to_regclass('bichat.restores') is not null;

-- name: used
select exists (select from bichat.stored_events), exists (select from bichat.receipts);

-- name: under_way
select backup, made_at, phase from bichat.restores where phase <> 'done';

-- name: raze
-- What a log without events may have around it: read models of none of it, perhaps of another form.
drop schema if exists bichat cascade;

-- name: begin
insert into bichat.restores (backup, made_at, position, phase) values (%s, %s, %s, 'loading');

-- name: abandon
delete from bichat.restores where phase = 'loading';

-- name: loaded
update bichat.restores set phase = 'loaded' where phase = 'loading';

-- name: done
update bichat.restores set phase = 'done', done_at = clock_timestamp() where phase = 'loaded';

-- name: keys
select exists (select from bichat_keys.data_keys);

-- name: newest_seal
select coalesce(max(number), 0) from bichat.seals;
