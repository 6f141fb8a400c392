-- Tokens spent, for each tenant, user, model and day; every call to the model counts, failed ones too.

-- name: tables
create table bichat.usage_vN_gN (
    tenant_id         uuid   not null,
    user_id           text   not null,
    day               date   not null,  -- in UTC
    model             text   not null,
    calls             bigint not null,
    prompt_tokens     bigint not null,
    completion_tokens bigint not null,
    total_tokens      bigint not null
) with (fillfactor = 50);

-- Whose a dialogue is, and which model was last called in it: one reply at a time.
create table bichat.usage_dialogues_vN_gN (
    dialogue_id uuid not null,
    tenant_id   uuid not null,
    user_id     text not null,
    model       text not null
) with (fillfactor = 70);

-- name: indexes
alter table bichat.usage_vN_gN add primary key (tenant_id, user_id, day, model);
alter table bichat.usage_dialogues_vN_gN add primary key (dialogue_id);
create index usage_vN_gN_day on bichat.usage_vN_gN (tenant_id, day);

-- name: held
select dialogue_id, tenant_id, user_id, model from bichat.usage_dialogues_vN_gN where dialogue_id = any(%s);

-- name: write_dialogues
insert into bichat.usage_dialogues_vN_gN
select * from jsonb_populate_recordset(null::bichat.usage_dialogues_vN_gN, %s)
on conflict (dialogue_id) do update set model = excluded.model;

-- name: write
insert into bichat.usage_vN_gN as held
select * from jsonb_populate_recordset(null::bichat.usage_vN_gN, %s)
on conflict (tenant_id, user_id, day, model) do update set
    calls = held.calls + excluded.calls,
    prompt_tokens = held.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = held.completion_tokens + excluded.completion_tokens,
    total_tokens = held.total_tokens + excluded.total_tokens;

-- name: merge
-- What slices counted, added up.
with parts as (delete from bichat.usage_vN_gN returning *)
insert into bichat.usage_vN_gN
select tenant_id, user_id, day, model, sum(calls), sum(prompt_tokens), sum(completion_tokens), sum(total_tokens)
from parts group by tenant_id, user_id, day, model;

-- name: usage
select case when 'day' = any(%(by)s) then day end as day,
       case when 'model' = any(%(by)s) then model end as model,
       case when 'user' = any(%(by)s) then user_id end as user_id,
       sum(calls)::bigint as calls, sum(prompt_tokens)::bigint as prompt_tokens,
       sum(completion_tokens)::bigint as completion_tokens, sum(total_tokens)::bigint as total_tokens
from bichat.usage_vN
where tenant_id = %(tenant_id)s and (%(user_id)s::text is null or user_id = %(user_id)s)
  and day >= %(since)s and day < %(until)s
group by 1, 2, 3 order by 1, 2, 3;

-- name: everywhere
select case when 'tenant' = any(%(by)s) then tenant_id end as tenant_id,
       case when 'day' = any(%(by)s) then day end as day,
       case when 'model' = any(%(by)s) then model end as model,
       case when 'user' = any(%(by)s) then user_id end as user_id,
       sum(calls)::bigint as calls, sum(prompt_tokens)::bigint as prompt_tokens,
       sum(completion_tokens)::bigint as completion_tokens, sum(total_tokens)::bigint as total_tokens
from bichat.usage_vN
where (%(tenant_id)s::uuid is null or tenant_id = %(tenant_id)s) and day >= %(since)s and day < %(until)s
group by 1, 2, 3, 4 order by 1, 2, 3, 4;
