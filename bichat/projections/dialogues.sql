-- The list of a user's dialogues, last changed first, and how many there are in each state.

-- name: tables
create table bichat.dialogues_vN_gN (
    id            uuid        not null,
    tenant_id     uuid        not null,
    user_id       text        not null,
    label         text,
    state         text        not null,
    version       bigint      not null,
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    message_count bigint      not null,
    last_message  jsonb,
    question_id   uuid,  -- the newest question
    question_seq  bigint,
    status        text   -- of the reply to it
) with (fillfactor = 70);

create table bichat.dialogues_counts_vN_gN (
    tenant_id uuid   not null,
    user_id   text   not null,
    state     text   not null,
    dialogues bigint not null
) with (fillfactor = 50);

-- The planner's statistics would keep samples of what people wrote, also of those who are forgotten.
alter table bichat.dialogues_vN_gN
    alter column label set statistics 0, alter column last_message set statistics 0;

-- name: indexes
alter table bichat.dialogues_vN_gN add primary key (id);
alter table bichat.dialogues_counts_vN_gN add primary key (tenant_id, user_id, state);
create index dialogues_vN_gN_list
    on bichat.dialogues_vN_gN (tenant_id, user_id, state, updated_at desc, id desc);

-- name: held
select id, tenant_id, user_id, label, state, version, created_at, updated_at, message_count,
       question_id, question_seq, status
from bichat.dialogues_vN_gN where id = any(%s);

-- name: write
insert into bichat.dialogues_vN_gN as held
select * from jsonb_populate_recordset(null::bichat.dialogues_vN_gN, %s)
on conflict (id) do update set
    label = excluded.label, state = excluded.state, version = excluded.version,
    updated_at = excluded.updated_at, message_count = excluded.message_count,
    last_message = coalesce(excluded.last_message, held.last_message),
    question_id = excluded.question_id, question_seq = excluded.question_seq, status = excluded.status;

-- name: blank
-- What there is of these dialogues is from before their erasures.
update bichat.dialogues_vN_gN d
set label = case d.label when '' then '' end,
    last_message = d.last_message
        || case when d.last_message->>'content' <> '' then '{"content": null}' else '{}' end::jsonb
        || case when d.last_message->>'name' <> '' then '{"name": null}' else '{}' end::jsonb
        || case when d.last_message->>'arguments' <> '' then '{"arguments": null}' else '{}' end::jsonb
where d.id = any(%(dialogues)s);

-- name: count
insert into bichat.dialogues_counts_vN_gN as held
select * from jsonb_populate_recordset(null::bichat.dialogues_counts_vN_gN, %s)
on conflict (tenant_id, user_id, state) do update set dialogues = held.dialogues + excluded.dialogues;

-- name: merge
-- What slices counted, added up; a row for each state, as `count` leaves them.
with parts as (delete from bichat.dialogues_counts_vN_gN returning *)
insert into bichat.dialogues_counts_vN_gN
select tenant_id, user_id, state, sum(dialogues) from (
    select * from parts
    union all
    select tenant_id, user_id, state, 0 from (select distinct tenant_id, user_id from parts) users
    cross join unnest(array['active', 'archived', 'deleted']) as states(state)
) counted
group by tenant_id, user_id, state;

-- name: page
-- One row at least, so that there is a total.
select page.*, total.dialogues
from (values (true)) as always
left join bichat.dialogues_counts_vN total
  on total.tenant_id = %(tenant_id)s and total.user_id = %(user_id)s and total.state = %(state)s
left join lateral (
    select id, tenant_id, user_id, label, state, version, created_at, updated_at, message_count,
           last_message::text, status
    from bichat.dialogues_vN
    where tenant_id = %(tenant_id)s and user_id = %(user_id)s and state = %(state)s
      and (updated_at, id) < (%(before)s, %(before_id)s)
    order by updated_at desc, id desc
    limit %(limit)s offset %(offset)s
) page on true
order by page.updated_at desc, page.id desc;

-- name: matching
select id, tenant_id, user_id, label, state, version, created_at, updated_at, message_count,
       last_message::text, status, null
from bichat.dialogues_vN
where tenant_id = %(tenant_id)s and user_id = %(user_id)s and state = %(state)s
  and (updated_at, id) < (%(before)s, %(before_id)s)
  and (label ilike %(pattern)s or last_message->>'content' ilike %(pattern)s)
order by updated_at desc, id desc
limit %(limit)s offset %(offset)s;

-- name: these
select id, tenant_id, user_id, label, state, version, created_at, updated_at, message_count,
       last_message::text, status, null
from bichat.dialogues_vN
where tenant_id = %(tenant_id)s and user_id = %(user_id)s and state = %(state)s and id = any(%(ids)s);
