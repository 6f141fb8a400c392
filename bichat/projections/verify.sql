-- Comparing a build with what the log comes to, in one snapshot.

-- name: repeatable
-- It stays idle while processes work on what it shows.
set transaction isolation level repeatable read;
set local idle_in_transaction_session_timeout = 0;

-- name: export
select pg_export_snapshot();

-- name: position
select position, fold from bichat.checkpoints where (name, shape, build) = (%s, %s, %s);

-- name: parked
select dialogue_id, position from bichat.parked where (name, shape, build) = (%s, %s, %s);

-- name: digest
-- The sum does not depend on the order of the rows.
select count(*), mod(coalesce(sum(hashtextextended(t::text, 0)::numeric + 9223372036854775808), 0),
                     18446744073709551616)
from (select * from {table} {where}) t;

-- name: within
where {column} >= %(first)s and (%(end)s::uuid is null or {column} < %(end)s)
  and (cardinality(%(only)s::uuid[]) = 0 or {column} = any(%(only)s))
  and {column} <> all(%(left_out)s::uuid[])

-- name: leave_out
delete from {table} where {column} = any(%s);

-- name: different
select {key}, to_jsonb(expected)::text, to_jsonb(found)::text
from {expected} expected full join (select * from {table} {where}) found using ({key})
where expected::text is distinct from found::text
order by {key} limit 5;

-- name: count_different
select count(*)
from {expected} expected full join (select * from {table} {where}) found using ({key})
where expected::text is distinct from found::text;

-- name: keep
insert into bichat.reports (name, shape, build, valid, report) values (%s, %s, %s, %s, %s);

-- name: reports
select made_at, valid, report from bichat.reports where name = any(%s) order by id desc limit %s;
