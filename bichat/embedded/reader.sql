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
revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) from public;
