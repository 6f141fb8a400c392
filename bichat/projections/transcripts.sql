-- What is said in each dialogue: a header, pages of at most 50 messages, and how each reply stands.
-- `_vN` is the shape, `_gN` the build.

-- name: tables
create table bichat.transcripts_vN_gN (
    id            uuid        not null,
    tenant_id     uuid        not null,
    user_id       text        not null,
    label         text,
    state         text        not null,
    version       bigint      not null,
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    message_count bigint      not null,
    erased        bigint      not null,  -- text from before this version is gone
    last_message  jsonb
) with (fillfactor = 70);

-- A full page is not touched again, but by an erasure; the open one is appended to. `version` is its newest
-- message's. The pages of archived dialogues lie apart, packed tight: what is in use stays small.
create table bichat.transcripts_pages_vN_gN (
    dialogue_id uuid    not null,
    page        bigint  not null,
    tenant_id   uuid    not null,
    version     bigint  not null,
    questions   uuid[]  not null,
    messages    jsonb   not null,
    cold        boolean not null default false
) partition by list (cold);

create table bichat.transcripts_pages_vN_gN_hot partition of bichat.transcripts_pages_vN_gN
    for values in (false) with (fillfactor = 70);
create table bichat.transcripts_pages_vN_gN_cold partition of bichat.transcripts_pages_vN_gN
    for values in (true) with (fillfactor = 100);

create table bichat.transcripts_turns_vN_gN (
    dialogue_id uuid        not null,
    message_id  uuid        not null,
    tenant_id   uuid        not null,
    seq         bigint      not null,
    version     bigint      not null,
    position    bigint      not null,
    at          timestamptz not null,
    status      text        not null,
    attempt     int         not null,
    model       text        not null,
    code        text        not null,
    detail      text,
    partial     text,
    usage       jsonb       not null,
    started     bigint      not null,
    calls       int         not null
);

-- The planner's statistics would keep samples of what people wrote, also of those who are forgotten.
alter table bichat.transcripts_vN_gN
    alter column label set statistics 0, alter column last_message set statistics 0;
alter table bichat.transcripts_pages_vN_gN
    alter column messages set statistics 0;
alter table bichat.transcripts_turns_vN_gN
    alter column detail set statistics 0, alter column partial set statistics 0;

-- name: indexes
alter table bichat.transcripts_vN_gN add primary key (id);
alter table bichat.transcripts_pages_vN_gN add primary key (dialogue_id, page, cold);
alter table bichat.transcripts_turns_vN_gN add primary key (dialogue_id, message_id);
create index transcripts_turns_vN_gN_version on bichat.transcripts_turns_vN_gN (dialogue_id, version);

-- name: held_headers
select id, tenant_id, user_id, label, state, version, created_at, updated_at, message_count, erased
from bichat.transcripts_vN_gN where id = any(%s);

-- name: held_turns
select t.dialogue_id, t.message_id, t.seq, t.version, t.position, t.at, t.status, t.attempt, t.model, t.code,
       t.detail, t.partial, t.usage::text, t.started, t.calls
from bichat.transcripts_turns_vN_gN t
join unnest(%s::uuid[], %s::uuid[]) as asked(dialogue_id, message_id) using (dialogue_id, message_id);

-- name: write_headers
insert into bichat.transcripts_vN_gN as held
select * from jsonb_populate_recordset(null::bichat.transcripts_vN_gN, %s)
on conflict (id) do update set
    label = excluded.label, state = excluded.state, version = excluded.version,
    updated_at = excluded.updated_at, message_count = excluded.message_count, erased = excluded.erased,
    last_message = coalesce(excluded.last_message, held.last_message);

-- name: move
-- Between the partitions, as dialogues are archived and brought back.
update bichat.transcripts_pages_vN_gN p set cold = moved.cold
from unnest(%s::uuid[], %s::boolean[]) as moved(dialogue_id, cold)
where p.dialogue_id = moved.dialogue_id and p.cold <> moved.cold;

-- name: settle
-- Of a dialogue that is loaded in pieces, the first ones do not know how it ends.
update bichat.transcripts_pages_vN_gN p set cold = not p.cold
from bichat.transcripts_vN_gN h
where p.dialogue_id = h.id and p.cold <> (h.state = 'archived');

-- name: write_pages
insert into bichat.transcripts_pages_vN_gN as held
select * from jsonb_populate_recordset(null::bichat.transcripts_pages_vN_gN, %s)
on conflict (dialogue_id, page, cold) do update set
    version = excluded.version, questions = held.questions || excluded.questions,
    messages = held.messages || excluded.messages;

-- name: write_turns
insert into bichat.transcripts_turns_vN_gN as held
select * from jsonb_populate_recordset(null::bichat.transcripts_turns_vN_gN, %s)
on conflict (dialogue_id, message_id) do update set
    version = excluded.version, position = excluded.position, at = excluded.at, status = excluded.status,
    attempt = excluded.attempt, model = excluded.model, code = excluded.code, detail = excluded.detail,
    partial = excluded.partial, usage = excluded.usage, started = excluded.started, calls = excluded.calls;

-- name: blank
-- What there is of these dialogues is from before their erasures. Pages without text are not written again.
with gone as materialized (
    select * from unnest(%(dialogues)s::uuid[], %(versions)s::bigint[]) as gone(dialogue_id, version)
), headers as (
    update bichat.transcripts_vN_gN h
    set label = case h.label when '' then '' end, erased = gone.version,
        last_message = h.last_message
            || case when h.last_message->>'content' <> '' then '{"content": null}' else '{}' end::jsonb
            || case when h.last_message->>'name' <> '' then '{"name": null}' else '{}' end::jsonb
            || case when h.last_message->>'arguments' <> '' then '{"arguments": null}' else '{}' end::jsonb
    from gone where h.id = gone.dialogue_id
), turns as (
    update bichat.transcripts_turns_vN_gN t
    set detail = case t.detail when '' then '' end, partial = case t.partial when '' then '' end
    from gone where t.dialogue_id = gone.dialogue_id and (t.detail <> '' or t.partial <> '')
), bare as (
    select p.dialogue_id, p.page, jsonb_agg(
        said || case when said->>'content' <> '' then '{"content": null}' else '{}' end::jsonb
            || case when said->>'name' <> '' then '{"name": null}' else '{}' end::jsonb
            || case when said->>'arguments' <> '' then '{"arguments": null}' else '{}' end::jsonb
        order by seq) as messages
    from gone join bichat.transcripts_pages_vN_gN p using (dialogue_id),
        jsonb_array_elements(p.messages) with ordinality as m(said, seq)
    group by p.dialogue_id, p.page
)
update bichat.transcripts_pages_vN_gN p set messages = bare.messages
from bare where p.dialogue_id = bare.dialogue_id and p.page = bare.page and p.messages <> bare.messages;

-- name: slice
-- A header with the pages and turns of some messages: one statement, so one snapshot. Its state says which
-- partition the pages are in, so that the other one is not touched: its index may not be in memory.
with header as materialized (
    select * from bichat.transcripts_vN
    where id = %(dialogue_id)s and tenant_id = %(tenant_id)s and user_id = %(user_id)s
), pages as materialized (
    select p.page, p.questions, p.messages from bichat.transcripts_pages_vN p
    where p.dialogue_id = %(dialogue_id)s and p.tenant_id = %(tenant_id)s
      and p.cold = (select h.state = 'archived' from header h)
      and p.page between %(first)s and %(last)s
    order by p.page
)
select h.id, h.tenant_id, h.user_id, h.label, h.state, h.version, h.created_at, h.updated_at,
    h.message_count, h.erased,
    array(select p.messages::text from pages p order by p.page),
    (
        select coalesce(jsonb_agg(t), '[]')::text from bichat.transcripts_turns_vN t
        where t.dialogue_id = %(dialogue_id)s and t.tenant_id = %(tenant_id)s
          and t.message_id = any(array(select unnest(p.questions) from pages p))
    )
from header h;

-- name: newest
-- As `slice`, for the pages that hold the newest messages.
with header as materialized (
    select * from bichat.transcripts_vN
    where id = %(dialogue_id)s and tenant_id = %(tenant_id)s and user_id = %(user_id)s
), pages as materialized (
    select p.page, p.questions, p.messages from bichat.transcripts_pages_vN p
    where p.dialogue_id = %(dialogue_id)s and p.tenant_id = %(tenant_id)s
      and p.cold = (select h.state = 'archived' from header h)
      and p.page between (select greatest(h.message_count - %(limit)s, 0) / 50 from header h)
          and (select h.message_count / 50 from header h)
    order by p.page
)
select h.id, h.tenant_id, h.user_id, h.label, h.state, h.version, h.created_at, h.updated_at,
    h.message_count, h.erased,
    array(select p.messages::text from pages p order by p.page),
    (
        select coalesce(jsonb_agg(t), '[]')::text from bichat.transcripts_turns_vN t
        where t.dialogue_id = %(dialogue_id)s and t.tenant_id = %(tenant_id)s
          and t.message_id = any(array(select unnest(p.questions) from pages p))
    )
from header h;

-- name: changes
-- The first pages with something newer, and the turns up to where they end; `upto` says where that is.
-- Pages are in the order of their versions, so walking back stops at the first one that is old enough.
-- `greatest`, not `coalesce`: only of leakproof expressions does row-level security let an index make use.
with whose as materialized (
    select * from bichat.transcripts_vN
    where id = %(dialogue_id)s and tenant_id = %(tenant_id)s and user_id = %(user_id)s
), news as materialized (
    select p.page, p.version, p.messages from bichat.transcripts_pages_vN p
    where p.dialogue_id = %(dialogue_id)s and p.tenant_id = %(tenant_id)s and p.version > %(since)s
      and p.cold = (select w.state = 'archived' from whose w)
      and p.page >= greatest((
        select old.page from bichat.transcripts_pages_vN old
        where old.dialogue_id = %(dialogue_id)s and old.tenant_id = %(tenant_id)s and old.version <= %(since)s
          and old.cold = (select w.state = 'archived' from whose w)
          and old.page <= %(since)s / 50  -- as many messages as events, at most
        order by old.page desc limit 1), 0)
    order by p.page limit %(pages)s
), header as (
    select h.*, case when (select count(*) from news) = %(pages)s
        then (select max(n.version) from news n) else h.version end as upto
    from whose h
)
select h.id, h.tenant_id, h.user_id, h.label, h.state, h.version, h.created_at, h.updated_at,
    h.message_count, h.erased,
    array(select n.messages::text from news n order by n.page),
    (
        select coalesce(jsonb_agg(t), '[]')::text from bichat.transcripts_turns_vN t
        where t.dialogue_id = h.id and t.tenant_id = h.tenant_id and t.version > %(since)s and t.version <= h.upto
    ),
    h.upto
from header h;

-- name: reply
-- A turn with the page that holds its answer, the message whose version is the turn's; and the calls of its
-- last attempt from after a version, however much people said meanwhile. What came later is not looked at.
select to_jsonb(t)::text, (
    select p.messages::text from bichat.transcripts_pages_vN p
    where t.status = 'answered' and p.dialogue_id = h.id and p.tenant_id = h.tenant_id
      and p.cold = (h.state = 'archived') and p.page >= (t.seq - 1) / 50 and p.version >= t.version
    order by p.page limit 1), (
    select coalesce(jsonb_agg(m.said order by p.page, m.n), '[]')::text
    from bichat.transcripts_pages_vN p, jsonb_array_elements(p.messages) with ordinality as m(said, n)
    where t.calls > 0 and p.dialogue_id = h.id and p.tenant_id = h.tenant_id
      and p.cold = (h.state = 'archived') and p.page >= (t.seq - 1) / 50
      and p.version > greatest(t.started, %(since)s)
      and p.page <= coalesce(case when t.status <> 'running' then (
        select past.page from bichat.transcripts_pages_vN past
        where past.dialogue_id = h.id and past.tenant_id = h.tenant_id and past.cold = (h.state = 'archived')
          and past.page >= (t.seq - 1) / 50 and past.version >= t.version
        order by past.page limit 1) end, 9223372036854775807)
      and m.said->>'reply_to' = t.message_id::text and m.said ? 'call_id'
      and (m.said->>'attempt')::int = t.attempt and (m.said->>'version')::bigint > %(since)s)
from bichat.transcripts_vN h
join bichat.transcripts_turns_vN t on t.dialogue_id = h.id and t.tenant_id = h.tenant_id
where h.id = %(dialogue_id)s and h.tenant_id = %(tenant_id)s and h.user_id = %(user_id)s
  and t.message_id = %(message_id)s;

-- name: parked
-- Of another person's dialogue nothing is said. Whose it is, is not known if its first event was parked.
select true
from bichat.parked p join bichat.serving s using (name, shape, build)
where p.name = 'transcripts' and p.shape = %(shape)s
  and p.tenant_id = %(tenant_id)s and p.dialogue_id = %(dialogue_id)s
  and not exists (select from bichat.transcripts_vN t where t.id = p.dialogue_id and t.user_id <> %(user_id)s);
