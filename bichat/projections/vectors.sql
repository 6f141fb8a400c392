-- The vectors of messages, a table for each model that makes them, and how far each has come.

-- name: extension
-- Of what schema and version pgvector is in this database, and whether this server has it at all.
select (select n.nspname from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector'),
       (select string_to_array(e.extversion, '.')::int[] from pg_catalog.pg_extension e where e.extname = 'vector'),
       -- Asked only where it matters: to know that, the server looks through its directory.
       case when not exists (select from pg_catalog.pg_extension e where e.extname = 'vector')
           then exists (select from pg_catalog.pg_available_extensions a where a.name = 'vector') end;

-- name: install
create extension if not exists vector;

-- name: models
select number, name, dimensions, state, position, erased, error, updated_at
from bichat.embedding_models order by number;

-- name: serving
select number, name, dimensions from bichat.embedding_models where state = 'serving';

-- name: newest_first
-- Whoever registers a model or lets it serve does so alone.
select pg_advisory_xact_lock(hashtextextended('bichat.embeddings', 0));

-- name: register
-- Erasures up to here are none of its concern: what they took away it will not see.
insert into bichat.embedding_models (name, dimensions, erased) values (%s, %s, bichat.head()) returning number;

-- name: give_up
-- Models that were on their way to serve, but for the one that is wanted now.
update bichat.embedding_models set state = 'retired', updated_at = clock_timestamp()
where state = 'building' and name <> %s;

-- name: create
create table {table} (
    message_id  uuid  not null primary key,
    dialogue_id uuid  not null,
    tenant_id   uuid  not null,
    user_id     text  not null,
    digest      bytea not null,  -- of the text, with its person's key
    embedding   {vector}.halfvec({dimensions}) not null
);
-- In the row, as long as a page can hold it: whoever compares vectors needs nothing but vectors.
alter table {table} alter column embedding set storage {storage};
alter table {table} alter column embedding set statistics 0;
create index on {table} (tenant_id, user_id);
create index on {table} (dialogue_id);
create index on {table} (digest);

-- name: index
create index on {table} using hnsw (embedding {vector}.halfvec_ip_ops);

-- name: indexed
select exists (
    select from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    join pg_catalog.pg_am a on a.oid = c.relam
    where i.indrelid = %s::regclass and i.indisvalid and a.amname = 'hnsw');

-- name: retire
update bichat.embedding_models set state = 'retired', updated_at = clock_timestamp() where state = 'serving';

-- name: serve
update bichat.embedding_models set state = 'serving', updated_at = clock_timestamp()
where number = %s and state = 'building';

-- name: left
-- Models that nobody has asked for some time.
select number from bichat.embedding_models
where state = 'retired' and updated_at < clock_timestamp() - make_interval(secs => %s);

-- name: drop
drop table if exists {table};

-- name: forget
delete from bichat.embedding_models where number = %s;

-- name: lock
select pg_try_advisory_lock(hashtextextended('bichat.embeddings.' || %s, 0));

-- name: known
select distinct on (digest) digest, embedding::text from {table} where digest = any(%s);

-- name: advance
update bichat.embedding_models set position = %(to)s, error = '', updated_at = clock_timestamp()
where number = %(number)s and position = %(from)s and state <> 'retired';

-- name: failed
update bichat.embedding_models set error = %s, updated_at = clock_timestamp() where number = %s;

-- name: erased_later
-- Of these dialogues the positions of the last erasures.
select e.originator_id, max(e.notification_id) from bichat.stored_events e
where e.originator_id = any(%s) and e.topic = 'TextErased' group by e.originator_id;

-- name: add
insert into {table} (message_id, dialogue_id, tenant_id, user_id, digest, embedding)
select m.message_id, m.dialogue_id, m.tenant_id, m.user_id, decode(m.digest, 'hex'), m.embedding::{vector}.halfvec
from jsonb_to_recordset(%s::jsonb) as m(
    message_id uuid, dialogue_id uuid, tenant_id uuid, user_id text, digest text, embedding text)
on conflict (message_id) do nothing;

-- name: hold
-- Vectors come in and are taken away by one at a time.
select erased, bichat.head() from bichat.embedding_models where number = %s for update;

-- name: erase
with gone as (
    select distinct e.originator_id from bichat.stored_events e
    where e.notification_id > %(from)s and e.notification_id <= %(to)s and e.topic = 'TextErased'
)
delete from {table} v using gone where v.dialogue_id = gone.originator_id;

-- name: erased
update bichat.embedding_models set erased = %s where number = %s;

-- name: head
select bichat.head();
