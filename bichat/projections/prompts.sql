-- Every version of every prompt of a tenant: they change rarely.

-- name: tables
create table bichat.prompts_vN_gN (
    stream_id  uuid        not null,
    tenant_id  uuid        not null,
    name       text        not null,
    version    bigint      not null,
    template   text,                 -- null: this version took the prompt away
    changed_at timestamptz not null,
    author     text        not null  -- the user id of who did it, or what else did
) with (fillfactor = 100);

-- name: indexes
alter table bichat.prompts_vN_gN add primary key (stream_id, version);
create index prompts_vN_gN_list on bichat.prompts_vN_gN (tenant_id, name, version desc);

-- name: write
insert into bichat.prompts_vN_gN
select * from jsonb_populate_recordset(null::bichat.prompts_vN_gN, %s)
on conflict do nothing;

-- name: page
select name, version, changed_at, author from (
    select distinct on (name) name, version, changed_at, author, template is null as removed
    from bichat.prompts_vN
    where tenant_id = %(tenant_id)s and (%(after)s::text is null or name > %(after)s)
    order by name, version desc
) newest
where not removed
order by name limit %(limit)s;

-- name: versions
-- The newest of a prompt, newest first, with the text of the one that is asked for or (null) of the newest.
with newest as (
    select version from bichat.prompts_vN
    where tenant_id = %(tenant_id)s and name = %(name)s order by version desc limit 100
)
select version, changed_at, author, template is null as removed,
       case when version = coalesce(%(version)s, (select max(version) from newest)) then template end as template
from bichat.prompts_vN
where tenant_id = %(tenant_id)s and name = %(name)s
  and (version >= (select min(version) from newest) or version = %(version)s)
order by version desc;

-- name: parked
select true
from bichat.parked p join bichat.serving s using (name, shape, build)
where p.name = 'prompts' and p.shape = %(shape)s and p.tenant_id = %(tenant_id)s and p.dialogue_id = %(stream_id)s;
