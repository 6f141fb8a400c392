-- Out of the log and into one, table by table.

-- name: snapshot
-- Everything as of one moment, whoever writes meanwhile. Rows that a policy would hide are an error, not a gap.
set transaction isolation level repeatable read, read only;
set local row_security = off;
set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = 0;

-- name: head
select (select coalesce(max(notification_id), 0) from bichat.stored_events),
       (select coalesce(max(number), 0) from bichat.seals);

-- name: columns
select attname, format_type(atttypid, atttypmod) from pg_catalog.pg_attribute
where attrelid = %s::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum;

-- name: out
copy (select {columns} from bichat.{table} order by {order}) to stdout (format binary);

-- name: in
copy bichat.{table} ({columns}) from stdin (format binary);

-- name: exclusively
-- The append's own lock: who has slipped in does not write into what is being loaded.
set local statement_timeout = 0;
set local lock_timeout = '10s';
select pg_advisory_xact_lock(hashtextextended('bichat.append', 0));

-- name: position
select setval('bichat.log_position', greatest(%(head)s, 1), %(head)s > 0);

-- name: analyze
analyze bichat.{table};
