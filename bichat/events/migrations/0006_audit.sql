-- What auditors read by, and what makes sure that nobody seals with a key that is to be destroyed.

-- Who caused an event, when it was a person: told by whoever appends, and for older events found out here, once.
-- A column, for row-level security lets no expression use an index; what is in `state` counts.
-- Immutable, as the server's own `convert_from` is not said to be: the database's encoding is UTF8 for good.
-- What somebody has spoilt has no actor: it is there to be found, not to be refused.
create function bichat.actor_of(state bytea) returns text language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    doer json;
begin
    doer := convert_from(state, 'UTF8')::json -> 'by';
    return case when doer ->> 0 = 'user' then doer ->> 1 end;
exception
    when data_exception then return null;
end
$$;

alter table bichat.stored_events
    add column actor text generated always as (bichat.actor_of(state)) stored;
alter table bichat.stored_events alter column actor drop expression;
drop function bichat.actor_of;

-- The tenant's feed, whole and filtered: a page costs the same wherever it is.
create index stored_events_tenant on bichat.stored_events (tenant_id, notification_id);
create index stored_events_topic on bichat.stored_events (tenant_id, topic, notification_id);
create index stored_events_actor on bichat.stored_events (tenant_id, actor, notification_id)
    where actor is not null;

create policy tenant on bichat.stored_events for select to bichat_reader
    using (tenant_id = nullif(current_setting('bichat.tenant', true), '')::uuid);
grant select on bichat.stored_events to bichat_reader;

-- About where the log stood at a time: the last position recorded before it. Positions are given out in the
-- order of the clock, unless somebody has set that back.
create function bichat.position_at(moment timestamptz) returns bigint
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    low  bigint := 0;
    high bigint := (select coalesce(max(notification_id), 0) from bichat.stored_events);
    here record;
begin
    while low < high loop
        -- The first event from the middle on; there is one, for `high` is an event's position or none is left.
        select notification_id, recorded_at into here from bichat.stored_events
        where notification_id > (low + high) / 2 order by notification_id limit 1;
        if here.notification_id is null or here.notification_id > high or here.recorded_at >= moment then
            high := (low + high) / 2;
        else
            low := here.notification_id;
        end if;
    end loop;
    return low;
end
$$;
revoke all on function bichat.position_at from public;
grant execute on function bichat.position_at to bichat_reader;

-- Keys of which somebody has said that they will be destroyed: nothing is appended any more that they seal.
create table bichat.void_keys (
    key_id    uuid        primary key,
    voided_at timestamptz not null default clock_timestamp()
);
alter table bichat.void_keys enable row level security;

-- Under the lock of the append: whatever these keys have sealed is in the log now, and there will be no more.
create function bichat.void(keys uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('bichat.append', 0));
    insert into bichat.void_keys (key_id) select unnest(keys) on conflict do nothing;
end
$$;
revoke all on function bichat.void from public;

drop function bichat.append;  -- another argument is another function

-- A batch of commands, grouped by stream. Each group wins whole or loses whole: it loses when its stream's
-- head is not the one it was decided on (by hash too: a log restored beneath a running process may have the
-- version, but not the history), when a rival has used one of its idempotency keys, or when a key that has sealed
-- its text, or fingerprinted its request, is void. Losers write nothing and are returned by their absence.
-- Under the lock position order is commit order, so followers never skip.
create function bichat.append(
    g_stream uuid[], g_version bigint[], g_hash bytea[],
    e_group int[], e_version bigint[], e_topic text[], e_state bytea[],
    e_tenant uuid[], e_command uuid[], e_hash bytea[],
    r_group int[], r_tenant uuid[], r_user text[], r_key text[],
    r_fingerprint bytea[], r_command uuid[], r_answer text[], r_position bigint[],
    e_actor text[] default null, e_key uuid[] default null  -- older code does not say
) returns table (winner int, positions bigint[])
language plpgsql volatile
set lock_timeout = '5s'
as $$
declare
    winners int[];
begin
    perform pg_advisory_xact_lock(hashtextextended('bichat.append', 0));

    select array_agg(g.nr::int) into winners
    from unnest(g_stream, g_version, g_hash) with ordinality as g(stream, version, hash, nr)
    left join lateral (
        select s.originator_version, s.hash from bichat.stored_events s
        where s.originator_id = g.stream order by s.originator_version desc limit 1
    ) head on true
    where coalesce(head.originator_version, 0) = g.version
      and (g.version = 0 or head.hash = g.hash)
      and not exists (
        select from unnest(r_group, r_tenant, r_user, r_key) as r(grp, tenant, usr, key)
        join bichat.receipts old on old.tenant_id = r.tenant and old.user_id = r.usr and old.key = r.key
        where r.grp = g.nr
      )
      and not exists (
        select from unnest(e_group, e_key) as e(grp, key) join bichat.void_keys v on v.key_id = e.key
        where e.grp = g.nr
      )
      and not exists (  -- a fingerprint begins with the id of the key that made it
        select from unnest(r_group, r_fingerprint) as r(grp, fingerprint)
        join bichat.void_keys v on uuid_send(v.key_id) = substring(r.fingerprint for 16)
        where r.grp = g.nr
      );

    return query
    with new as (
        insert into bichat.stored_events as t (
            originator_id, originator_version, topic, state, tenant_id, command_id, hash, actor, notification_id)
        select o.stream, o.version, o.topic, o.state, o.tenant, o.command, o.hash, o.actor,
               nextval('bichat.log_position')
        from (
            select g_stream[e.grp] as stream, e.* from unnest(
                e_group, e_version, e_topic, e_state, e_tenant, e_command, e_hash, e_actor)
                with ordinality as e(grp, version, topic, state, tenant, command, hash, actor, nr)
            where e.grp = any(winners)
            order by e.nr
        ) o
        returning t.originator_id, t.notification_id
    ), placed as (
        select n.originator_id, array_agg(n.notification_id order by n.notification_id) as positions
        from new n group by n.originator_id
    ), receipted as (
        -- r_position: how many of its group's events stand before and with the answer (0: it wrote none
        -- and rests on what the log had); turned into a position here, where positions are known.
        insert into bichat.receipts (tenant_id, user_id, key, fingerprint, command_id, answer, position)
        select r.tenant, r.usr, r.key, r.fingerprint, r.command, r.answer::jsonb,
               case when r.nth > 0 then p.positions[r.nth] else -r.nth end
        from unnest(r_group, r_tenant, r_user, r_key, r_fingerprint, r_command, r_answer, r_position)
             as r(grp, tenant, usr, key, fingerprint, command, answer, nth)
        left join placed p on p.originator_id = g_stream[r.grp]
        where r.grp = any(winners)
    )
    select w.nr, coalesce(p.positions, '{}')
    from unnest(winners) as w(nr) left join placed p on p.originator_id = g_stream[w.nr];
end
$$;

revoke all on function bichat.append from public;
