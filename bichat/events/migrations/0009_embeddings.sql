-- Which models make vectors of messages. A model's vectors lie in a table of their own, vectors_N by its number,
-- which its first worker makes: on a server without pgvector there are none, and nothing else is amiss.
create table bichat.embedding_models (
    number     int         generated always as identity primary key,
    name       text        not null,
    dimensions int         not null,
    state      text        not null default 'building' check (state in ('building', 'serving', 'retired')),
    position   bigint      not null default 0,   -- messages of the log have vectors up to here
    erased     bigint      not null default 0,   -- erasures in the log are carried out up to here
    error      text        not null default '',
    updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
create unique index embedding_models_serving on bichat.embedding_models (state) where state = 'serving';
create unique index embedding_models_name on bichat.embedding_models (name) where state <> 'retired';
grant select on bichat.embedding_models to bichat_reader;
