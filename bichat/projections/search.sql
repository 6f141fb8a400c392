-- What is searched: the words of what people asked and were told, one row for each message.

-- name: tables
create table bichat.search_vN_gN (
    message_id  uuid     not null,
    dialogue_id uuid     not null,
    tenant_id   uuid     not null,
    user_id     text     not null,
    seq         bigint   not null,
    words       tsvector not null  -- each once, without places
);

create table bichat.search_dialogues_vN_gN (
    id            uuid        not null,
    tenant_id     uuid        not null,
    user_id       text        not null,
    state         text        not null,
    version       bigint      not null,
    at            timestamptz not null,
    message_count bigint      not null
) with (fillfactor = 70);

-- The planner's statistics would keep samples of what people wrote, also of those who are forgotten.
alter table bichat.search_vN_gN alter column words set statistics 0;

-- name: indexes
alter table bichat.search_vN_gN add primary key (message_id);
alter table bichat.search_dialogues_vN_gN add primary key (id);
create index search_vN_gN_user on bichat.search_vN_gN (tenant_id, user_id);
create index search_vN_gN_dialogue on bichat.search_vN_gN (dialogue_id);
create index search_dialogues_vN_gN_deleted on bichat.search_dialogues_vN_gN (tenant_id, user_id)
    where state = 'deleted';

-- name: held
select id, tenant_id, user_id, state, version, at, message_count
from bichat.search_dialogues_vN_gN where id = any(%s);

-- name: write_dialogues
insert into bichat.search_dialogues_vN_gN
select * from jsonb_populate_recordset(null::bichat.search_dialogues_vN_gN, %s)
on conflict (id) do update set
    state = excluded.state, version = excluded.version, at = excluded.at,
    message_count = excluded.message_count;

-- name: write
insert into bichat.search_vN_gN
select * from jsonb_populate_recordset(null::bichat.search_vN_gN, %s);

-- name: blank
-- What there is of these dialogues is from before their erasures.
delete from bichat.search_vN_gN where dialogue_id = any(%(dialogues)s);

-- name: matching
-- Of one person's messages those with any of the words, a rare word counting for more (as in BM25). All of them
-- are looked at: an index over words would keep words of people who are forgotten, and row-level security
-- would not let it be used. `share` is how much of what was asked for is in the message, from 0 to 1.
with deleted as (
    select array_agg(d.id) as ids from bichat.search_dialogues_vN d
    where d.tenant_id = %(tenant_id)s and d.user_id = %(user_id)s and d.state = 'deleted'
), mine as materialized (
    select s.message_id, s.dialogue_id, s.seq, s.words from bichat.search_vN s
    where s.tenant_id = %(tenant_id)s and s.user_id = %(user_id)s
      and s.dialogue_id <> all(coalesce((select ids from deleted), array[]::uuid[]))
), asked as materialized (
    select word::tsquery as word from unnest(%(words)s::text[]) word
), found as materialized (
    select m.message_id, m.dialogue_id, m.seq, a.word from asked a join mine m on m.words @@ a.word
), weights as materialized (
    select a.word, ln(1 + (total.n - count(f.word) + 0.5) / (count(f.word) + 0.5)) as weight
    from asked a left join found f on f.word = a.word cross join (select count(*) as n from mine) total
    group by a.word, total.n
)
select f.message_id, f.dialogue_id, f.seq,
       (sum(w.weight) / (select sum(weight) from weights))::float8 as share
from found f join weights w on w.word = f.word
group by f.message_id, f.dialogue_id, f.seq
order by share desc, f.message_id desc
limit %(limit)s;

-- name: vectors
-- How many vectors a person has, as far as that matters.
select count(*) from (
    select from {table} v where v.tenant_id = %(tenant_id)s and v.user_id = %(user_id)s limit %(limit)s) few;

-- name: nearest_of_few
-- All of a person's vectors are looked at, and no others.
with mine as materialized (
    select v.message_id, v.embedding from {table} v
    where v.tenant_id = %(tenant_id)s and v.user_id = %(user_id)s and v.dialogue_id <> all(array(
        select d.id from bichat.search_dialogues_vN d
        where d.tenant_id = %(tenant_id)s and d.user_id = %(user_id)s and d.state = 'deleted'))
), nearest as materialized (
    select m.message_id, m.embedding operator({vector}.<#>) %(embedding)s::{vector}.halfvec as distance
    from mine m order by 2 limit %(limit)s
)
select s.message_id, s.dialogue_id, s.seq, -n.distance as share
from nearest n join bichat.search_vN s on s.message_id = n.message_id
where s.tenant_id = %(tenant_id)s and s.user_id = %(user_id)s
order by n.distance;

-- name: approximately
-- For the next statement: the graph is walked on until enough vectors have passed the filter.
set local hnsw.iterative_scan = strict_order;
set local hnsw.ef_search = 200;
set local enable_sort = off;

-- name: nearest_of_many
with nearest as materialized (
    select v.message_id, v.embedding operator({vector}.<#>) %(embedding)s::{vector}.halfvec as distance
    from {table} v
    where v.tenant_id = %(tenant_id)s and v.user_id = %(user_id)s and v.dialogue_id <> all(array(
        select d.id from bichat.search_dialogues_vN d
        where d.tenant_id = %(tenant_id)s and d.user_id = %(user_id)s and d.state = 'deleted'))
    order by v.embedding operator({vector}.<#>) %(embedding)s::{vector}.halfvec limit %(limit)s
)
select s.message_id, s.dialogue_id, s.seq, -n.distance as share
from nearest n join bichat.search_vN s on s.message_id = n.message_id
where s.tenant_id = %(tenant_id)s and s.user_id = %(user_id)s
order by n.distance;

-- name: said
-- Messages out of their transcripts, as far as these have come; of a page they are in order from its first.
select (p.messages->((a.seq - 1) %% {page})::int)::text
from unnest(%(dialogues)s::uuid[], %(seqs)s::bigint[]) as a(dialogue_id, seq)
join {pages} p on p.dialogue_id = a.dialogue_id and p.page = (a.seq - 1) / {page}
where p.tenant_id = %(tenant_id)s;
