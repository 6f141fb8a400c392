-- Checking the log.

-- name: seals_over
select distinct seal from bichat.seal_leaves where stream_id = %s order by 1;

-- name: count_seals
select count(*) from bichat.seals;

-- name: count
select count(*) from bichat.stored_events
where %(tenant)s::uuid is null or tenant_id = %(tenant)s;

-- name: reader
set role bichat_reader;
set default_transaction_read_only = on;
set timezone = 'UTC';
set statement_timeout = '30s';
