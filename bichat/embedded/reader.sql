-- The role that queries come as: it reads the sales and gets nowhere else.
do $$ begin
  create role sales_reader login nosuperuser nocreatedb nocreaterole noinherit connection limit 16;
exception when duplicate_object then null;
end $$;
alter role sales_reader set default_transaction_read_only = on;
alter role sales_reader set statement_timeout = '15s';
alter role sales_reader set temp_file_limit = '256MB';
grant usage on schema public to sales_reader;
grant select on all tables in schema public to sales_reader;
-- What does more than compute from what it is given: waits, locks, notifies, looks at other sessions or ends them,
-- runs other queries. Of those, bichat itself needs set_config.
do $$ declare name text; begin
  for name in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f'
      and (p.provolatile = 'v' or p.proname ~ '^(pg_stat_|pg_lock_|pg_prepared_|pg_cursor|.*_to_xml)')
      and p.proname !~ '^(set_config|clock_timestamp|timeofday|random.*|gen_random_uuid|uuidv[47])$'
      and has_function_privilege('public', p.oid, 'execute')
  loop
    execute 'revoke execute on function ' || name || ' from public';
  end loop;
end $$;
