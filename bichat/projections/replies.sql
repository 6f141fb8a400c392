-- The questions without an answer: the queue of the workers, and what ops look at.

-- name: tables
create table bichat.replies_vN_gN (
    message_id       uuid        not null,
    dialogue_id      uuid        not null,
    tenant_id        uuid        not null,
    user_id          text        not null,
    version          bigint      not null,  -- of the question's event: the order within its dialogue
    position         bigint      not null,  -- of the same: the order in the queue
    asked_at         timestamptz not null,
    updated_at       timestamptz not null,
    status           text        not null,
    due              boolean     not null,  -- waits, or runs and may have lost its worker
    first            boolean     not null,  -- to be claimed: the running one of its dialogue, else of the due ones
                                           -- the first that waits for now, and the first for the quiet hours
    attempt          int         not null,
    tries            int         not null,  -- attempts since it was asked or requeued
    cancel_requested boolean     not null,
    off_peak         boolean     not null,  -- asked for the quiet hours
    later            boolean     not null,  -- and waits for them: a queue of its own
    code             text,                  -- of the last failure
    detail           text
) with (
    -- A queue: rows come and go, and the claim must not wade through dead ones.
    fillfactor = 70, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.02
);

create table bichat.replies_owners_vN_gN (
    dialogue_id uuid not null,
    tenant_id   uuid not null,
    user_id     text not null
);

-- The planner's statistics would keep samples of what people wrote, also of those who are forgotten.
alter table bichat.replies_vN_gN
    alter column detail set statistics 0;

-- name: indexes
alter table bichat.replies_vN_gN add primary key (message_id);
alter table bichat.replies_owners_vN_gN add primary key (dialogue_id);
create index replies_vN_gN_queue on bichat.replies_vN_gN (later, tenant_id, position) where first;
create index replies_vN_gN_first on bichat.replies_vN_gN (dialogue_id) where first;
create index replies_vN_gN_list on bichat.replies_vN_gN (tenant_id, position);
create index replies_vN_gN_dialogue on bichat.replies_vN_gN (dialogue_id);
create index replies_vN_gN_order on bichat.replies_vN_gN (dialogue_id, off_peak, version) where due;
create index replies_vN_gN_running on bichat.replies_vN_gN (dialogue_id) where status = 'running';

-- name: held_owners
select dialogue_id, tenant_id, user_id from bichat.replies_owners_vN_gN where dialogue_id = any(%s);

-- name: held
-- The zero: whom a reply that was ended still has to tell of what it cost is not the queue's business.
select dialogue_id, message_id, version, status, attempt, tries, cancel_requested, 0, off_peak
from bichat.replies_vN_gN where message_id = any(%s);

-- name: write_owners
insert into bichat.replies_owners_vN_gN
select * from jsonb_populate_recordset(null::bichat.replies_owners_vN_gN, %s);

-- name: write
insert into bichat.replies_vN_gN as held
select * from jsonb_populate_recordset(null::bichat.replies_vN_gN, %s)
on conflict (message_id) do update set
    updated_at = excluded.updated_at, status = excluded.status, due = excluded.due,
    attempt = excluded.attempt, tries = excluded.tries, cancel_requested = excluded.cancel_requested,
    later = excluded.later,
    code = coalesce(excluded.code, held.code),
    detail = case when excluded.code is null then held.detail else excluded.detail end;

-- name: blank
-- What there is of these dialogues is from before their erasures.
update bichat.replies_vN_gN set detail = null where dialogue_id = any(%(dialogues)s) and detail <> '';

-- name: answered
delete from bichat.replies_vN_gN where message_id = any(%s);

-- name: arrange
-- After a change in these dialogues; so that a claim costs the same however many questions wait behind.
-- A dialogue has one reply at a time, so while one runs nothing else of it can be claimed.
with next as (
    select coalesce(
        (select r.message_id from bichat.replies_vN_gN r
         where r.dialogue_id = d.dialogue_id and r.status = 'running' limit 1),
        (select r.message_id from bichat.replies_vN_gN r
         where r.dialogue_id = d.dialogue_id and r.off_peak = lane.off_peak and r.due
         order by r.version limit 1)) as message_id
    from unnest(%(dialogues)s::uuid[]) as d(dialogue_id), (values (false), (true)) as lane(off_peak)
), no_more as (
    update bichat.replies_vN_gN r set first = false
    where r.first and r.dialogue_id = any(%(dialogues)s)
      and not exists (select from next where next.message_id = r.message_id)
)
update bichat.replies_vN_gN r set first = true from next
where not r.first and r.message_id = next.message_id;

-- name: claim
-- Tenants take turns: of some 32 that wait, found by skipping through the index from a place at random,
-- whoever has fewest replies under way goes first. What waits for the quiet hours is a queue of its own.
-- Of a dialogue only its `first` can be claimed. The row lock keeps workers out of each other's way, the lease's key keeps them from claiming
-- one question twice.
with recursive tenants as (
    select gen_random_uuid() as tenant_id
    union
    select coalesce(
        (select r.tenant_id from bichat.replies_vN r where r.first and r.later = %(later)s
           and r.tenant_id > t.tenant_id order by r.tenant_id limit 1),
        (select r.tenant_id from bichat.replies_vN r where r.first and r.later = %(later)s
         order by r.tenant_id limit 1))
    from tenants t where t.tenant_id is not null
), busy as materialized (
    select tenant_id, count(*) as replies from bichat.reply_leases
    where expires_at > clock_timestamp() and holder <> '' group by tenant_id
), parked as materialized (
    -- What is said of these is not news; somebody ends their questions, and claims would be in vain.
    select p.dialogue_id from bichat.parked p join bichat.serving s using (name, shape, build)
    where name || '_v' || shape = 'replies_vN'
), candidates as (
    select c.message_id, c.position, c.nth + coalesce(busy.replies, 0) as turn
    from (select tenant_id from tenants limit 33) t
    left join busy using (tenant_id)
    cross join lateral (
        select r.message_id, r.position, row_number() over (order by r.position) as nth
        from bichat.replies_vN r
        where r.first and r.later = %(later)s and r.tenant_id = t.tenant_id
          and not exists (select from bichat.reply_leases l
                          where l.message_id = r.message_id and l.expires_at > clock_timestamp())
          and r.dialogue_id not in (select dialogue_id from parked)
        order by r.position limit %(limit)s
    ) c
), due as (
    -- The array is for the planner: it expects more candidates than there are, and would read the whole queue.
    select r.* from bichat.replies_vN r join candidates c using (message_id)
    where r.first and r.later = %(later)s and r.message_id = any(array(select message_id from candidates))
    order by c.turn, c.position
    -- With a limit for all workers together, no more than what is left of it: `one_counts` has gone before.
    limit greatest(0, least(%(limit)s, %(most)s::bigint - (select coalesce(sum(replies), 0) from busy)))
    for update of r skip locked
), leased as (
    insert into bichat.reply_leases as lease (message_id, tenant_id, dialogue_id, holder, expires_at)
    select message_id, tenant_id, dialogue_id, %(holder)s,
           clock_timestamp() + make_interval(secs => %(seconds)s)
    from due
    on conflict (message_id) do update set holder = excluded.holder, expires_at = excluded.expires_at
    where lease.expires_at <= clock_timestamp()
    returning message_id
)
select message_id, dialogue_id, tenant_id, user_id, version, status, attempt, tries, cancel_requested, off_peak
from due join leased using (message_id) order by position;

-- name: one_counts
-- In a statement of its own, so that the next one sees what was leased by whoever had the lock before.
select pg_advisory_xact_lock(hashtextextended('bichat.model', 0));

-- name: take_place
insert into bichat.reply_leases (message_id, tenant_id, dialogue_id, holder, expires_at)
select %(id)s, %(tenant_id)s, %(id)s, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s)
where %(most)s > (select count(*) from bichat.reply_leases
                  where expires_at > clock_timestamp() and holder <> '')
returning message_id;

-- name: leave_place
delete from bichat.reply_leases where message_id = %s;

-- name: renew
update bichat.reply_leases set expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
where message_id = any(%(ids)s) and holder = %(holder)s
returning message_id;

-- name: hand_back
-- A row without a holder may not be claimed before it expires.
update bichat.reply_leases
set holder = '', expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
where message_id = %(id)s and holder = %(holder)s;

-- name: sweep
delete from bichat.reply_leases where message_id in (
    select message_id from bichat.reply_leases
    where expires_at < clock_timestamp() - interval '10 seconds' limit 1000 for update skip locked);

-- name: live
-- Shared: the session that this one replaces may not have been noticed to be gone.
select pg_advisory_lock_shared(hashtextextended('bichat.worker.' || %s, 0));

-- name: bury
-- Only cut short, and once: the holder may be reconnecting, and then renews what it holds.
with dead as materialized (
    select holder from (
        select distinct holder from bichat.reply_leases
        where holder not in ('', %(myself)s)
          and expires_at > clock_timestamp() + make_interval(secs => %(seconds)s) offset 0) held
    where pg_try_advisory_xact_lock(hashtextextended('bichat.worker.' || holder, 0))
)
update bichat.reply_leases lease set expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
from dead where lease.holder = dead.holder
  and lease.expires_at > clock_timestamp() + make_interval(secs => %(seconds)s)
returning lease.holder;

-- name: unwanted
select asked.message_id
from unnest(%s::uuid[]) as asked(message_id)
left join bichat.replies_vN r using (message_id)
where r.message_id is null or r.status <> 'running' or r.cancel_requested;

-- name: functions
-- For operators, who see the installation and nobody's rows.
create or replace function bichat.replies_vN_queue()
returns table (status text, questions bigint, oldest timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp
-- What waits for the quiet hours is no sign of trouble, so it is counted apart.
as $$ select case when r.later then 'off_peak' else r.status end, count(*), min(r.asked_at)
      from bichat.replies_vN r group by 1 $$;
revoke all on function bichat.replies_vN_queue() from public;
grant execute on function bichat.replies_vN_queue() to bichat_reader;

-- name: queue
select status, questions, extract(epoch from clock_timestamp() - oldest)::float8 as oldest
from bichat.replies_vN_queue();
