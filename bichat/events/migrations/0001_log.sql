-- The log: events, the receipts of idempotent commands, snapshots of deciding states.

create table bichat.stored_events (
    notification_id    bigint      not null,  -- the position; given out under the append lock, gaps are normal
    originator_id      uuid        not null,  -- the stream
    originator_version bigint      not null,
    topic              text        not null,  -- stored name of the fact
    state              bytea       not null,  -- envelope and fact as JSON, private fields sealed
    tenant_id          uuid        not null,
    command_id         uuid        not null,
    recorded_at        timestamptz not null default clock_timestamp(),
    hash               bytea       not null,
    primary key (originator_id, originator_version),
    unique (notification_id)
) with (
    -- Nothing is updated or deleted here: vacuum has only to freeze, analyze to keep up.
    autovacuum_vacuum_scale_factor = 0.5,
    autovacuum_analyze_scale_factor = 0.02
);
alter table bichat.stored_events alter column state set storage external;  -- sealed text does not compress
create sequence bichat.log_position as bigint cache 1 owned by bichat.stored_events.notification_id;

create table bichat.receipts (
    tenant_id   uuid        not null,
    user_id     text        not null,
    key         text        not null,
    fingerprint bytea       not null,  -- id of the person's key, then its digest of route and body
    command_id  uuid        not null,
    answer      jsonb       not null,  -- what the first call was told, but for the position of what it wrote
    position    bigint      not null,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, user_id, key)
);

create table bichat.snapshots (
    stream_id    uuid        not null,
    tenant_id    uuid        not null,
    fold_version int         not null,  -- old and new code each keep their own
    version      bigint      not null,
    position     bigint      not null,
    at           timestamptz not null,
    hash         bytea       not null,
    state        bytea       not null,
    primary key (stream_id, fold_version)
);

-- Rows for readers are hidden by tenant; nobody who answers requests reads the log but through here.
alter table bichat.stored_events enable row level security;
alter table bichat.receipts enable row level security;
alter table bichat.snapshots enable row level security;

-- A batch of commands, grouped by stream. Each group wins whole or loses whole: it loses when its stream's
-- head is not the one it was decided on (by hash too: a log restored beneath a running process may have the
-- version, but not the history) or when a rival has used one of its keys. Losers write nothing and are returned by their absence.
-- Under the lock position order is commit order, so followers never skip.
create function bichat.append(
    g_stream uuid[], g_version bigint[], g_hash bytea[],
    e_group int[], e_version bigint[], e_topic text[], e_state bytea[],
    e_tenant uuid[], e_command uuid[], e_hash bytea[],
    r_group int[], r_tenant uuid[], r_user text[], r_key text[],
    r_fingerprint bytea[], r_command uuid[], r_answer text[], r_position bigint[]
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
      );

    return query
    with new as (
        insert into bichat.stored_events as t (
            originator_id, originator_version, topic, state, tenant_id, command_id, hash, notification_id)
        select o.stream, o.version, o.topic, o.state, o.tenant, o.command, o.hash,
               nextval('bichat.log_position')
        from (
            select g_stream[e.grp] as stream, e.* from unnest(
                e_group, e_version, e_topic, e_state, e_tenant, e_command, e_hash)
                with ordinality as e(grp, version, topic, state, tenant, command, hash, nr)
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

-- Only the writers' role appends.
revoke all on function bichat.append from public;

create function bichat.head() returns bigint language sql stable security definer
set search_path = pg_catalog
as $$ select coalesce(max(notification_id), 0) from bichat.stored_events $$;
