-- name: limits
select
  set_config('statement_timeout', %(milliseconds)s, true),
  set_config('lock_timeout', '1s', true),
  set_config('idle_in_transaction_session_timeout', '30s', true),
  set_config('work_mem', '32MB', true),
  set_config('max_parallel_workers_per_gather', '0', true),
  set_config('jit', 'off', true),
  set_config('standard_conforming_strings', 'on', true),  -- the guard reads texts so
  -- A query of a worker that was killed must not go on for nobody; before Postgres 14 it does.
  (select set_config(name, '1s', true) from pg_settings where name = 'client_connection_check_interval')

-- name: too_much
-- What this role could do beyond reading, by itself or as another that it may become. No row: nothing.
with roles as (
  select oid, rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
  from pg_roles where pg_has_role(current_user, oid, 'member')
), relations as (
  select c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) as name
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'v', 'm', 'f', 'p', 'S') and n.nspname !~ '^(pg_|information_schema$)'
)
select 'it is a superuser' from roles where rolsuper
union all
select 'it may create roles or databases, replicate, or pass row-level security' from roles
where rolcreaterole or rolcreatedb or rolreplication or rolbypassrls
union all
select 'it is a member of ' || rolname from roles
where rolname in (
  'pg_write_all_data', 'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files',
  'pg_signal_backend', 'pg_maintain', 'pg_checkpoint', 'pg_create_subscription',
  'pg_monitor', 'pg_read_all_stats', 'pg_stat_scan_tables')
union all
select 'it sees the tables of bichat itself' from roles join pg_namespace n on n.nspname in ('bichat', 'bichat_keys')
where has_schema_privilege(roles.oid, n.oid, 'usage')
union all
select 'it may create schemas in this database' from roles
where has_database_privilege(roles.oid, current_database(), 'create')
union all
select 'it may create tables in the schema ' || nspname from roles, pg_namespace
where nspname !~ '^(pg_|information_schema$)' and has_schema_privilege(roles.oid, pg_namespace.oid, 'create')
union all
select 'it may change ' || name from roles, relations
where relkind <> 'S' and (
  has_table_privilege(roles.oid, relations.oid, 'insert, update, delete, truncate')
  or has_any_column_privilege(roles.oid, relations.oid, 'insert, update'))
union all
select 'it may change ' || name from roles, relations
where relkind = 'S' and has_sequence_privilege(roles.oid, relations.oid, 'usage, update')
limit 1

-- name: callable
-- What `x.name` may call for this role, where x has no such column. Not what only computes from what it is
-- given: that is called as columns often are (name, width, path). Who may call a function that runs as somebody
-- else gains by it, so that a column of that name is no excuse.
select distinct lower(p.proname)
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where p.prokind = 'f' and p.pronargs >= 1 and p.pronargs - p.pronargdefaults <= 1
  and has_function_privilege(p.oid, 'execute')
  and (p.prosecdef or p.proname <> all (%(allowed)s))
  and (p.prosecdef or p.provolatile <> 'i' or not (
    n.nspname = 'pg_catalog'
    or exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')))
  and (p.prosecdef or n.nspname = 'pg_catalog' or not exists (
    select from pg_attribute a join pg_class c on c.oid = a.attrelid
    where a.attname = p.proname and a.attnum > 0 and not a.attisdropped
      and c.relkind in ('r', 'v', 'm', 'f', 'p') and has_column_privilege(c.oid, a.attnum, 'select')))

-- name: tables
select
  case when pg_table_is_visible(c.oid) then quote_ident(c.relname)
  else format('%I.%I', n.nspname, c.relname) end,
  case c.relkind when 'v' then 'view' when 'm' then 'view' else 'table' end,
  left(obj_description(c.oid, 'pg_class'), 500),
  case when c.reltuples >= 0 and c.relkind <> 'v' then c.reltuples::bigint end
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'v', 'm', 'f', 'p') and not c.relispartition
  and n.nspname !~ '^(pg_|information_schema$)'
  and has_schema_privilege(n.oid, 'usage')
  and (has_table_privilege(c.oid, 'select') or has_any_column_privilege(c.oid, 'select'))
order by 1
limit 200

-- name: columns
with wanted as (select to_regclass(%(table)s) as oid)
select
  quote_ident(a.attname),
  format_type(a.atttypid, a.atttypmod),
  not a.attnotnull,
  left(col_description(a.attrelid, a.attnum), 500),
  exists (
    select from pg_constraint k
    where k.conrelid = a.attrelid and k.contype = 'p' and a.attnum = any (k.conkey)),
  (
    select k.confrelid::regclass || '.' || quote_ident(f.attname)
    from pg_constraint k
    join pg_attribute f on f.attrelid = k.confrelid and f.attnum = k.confkey[1]
    where k.conrelid = a.attrelid and k.contype = 'f' and k.conkey = array[a.attnum]
    limit 1)
from wanted
join pg_class c on c.oid = wanted.oid
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid
where a.attnum > 0 and not a.attisdropped
  and c.relkind in ('r', 'v', 'm', 'f', 'p')
  and n.nspname !~ '^(pg_|information_schema$)'
  and has_schema_privilege(n.oid, 'usage')
  and has_column_privilege(c.oid, a.attnum, 'select')
order by a.attnum
limit 300

-- name: shape
select * from (
{query}
) as q limit 0

-- name: rows
-- Rows as JSON, and none any more once their bytes are over the limit: what is cut never leaves the server.
select case when size <= {room} then line end from (
  select line, sum(octet_length(line) + 1) over (rows unbounded preceding) as size from (
    select json_build_array({columns})::text as line from (
{query}
) as q ({columns}) limit {most}
  ) as lines
) as measured
