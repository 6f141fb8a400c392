-- The same append, with plans that do not depend on how full its tables were when a session made them.

-- A batch of commands, grouped by stream. Each group wins whole or loses whole: it loses when its stream's
-- head is not the one it was decided on (by hash too: a log restored beneath a running process may have the
-- version, but not the history), when a rival has used one of its idempotency keys, or when a key that has sealed
-- its text, or fingerprinted its request, is void. Losers write nothing and are returned by their absence.
-- Under the lock position order is commit order, so followers never skip.
create or replace function bichat.append(
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
    -- A fingerprint begins with the id of the key that made it.
    r_made_with uuid[] := array(
        select encode(substring(f.print for 16), 'hex')::uuid
        from unnest(r_fingerprint) with ordinality as f(print, nr) order by f.nr
    );
    void    uuid[];
    losers  int[];
    winners int[];
begin
    perform pg_advisory_xact_lock(hashtextextended('bichat.append', 0));

    void := array(select v.key_id from bichat.void_keys v where v.key_id = any(e_key || r_made_with));
    -- A plan is kept until statistics change: made while receipts were few, it read all of them for every
    -- command of a batch. The limit keeps the lookup from becoming a join.
    losers := array(
        select r.grp from unnest(r_group, r_tenant, r_user, r_key) as r(grp, tenant, usr, key)
        cross join lateral (
            select from bichat.receipts old
            where old.tenant_id = r.tenant and old.user_id = r.usr and old.key = r.key limit 1
        ) used
        union all
        select e.grp from unnest(e_group, e_key) as e(grp, key) where e.key = any(void)
        union all
        select r.grp from unnest(r_group, r_made_with) as r(grp, key) where r.key = any(void)
    );
    winners := array(
        select g.nr from unnest(g_stream, g_version, g_hash) with ordinality as g(stream, version, hash, nr)
        left join lateral (
            select s.originator_version, s.hash from bichat.stored_events s
            where s.originator_id = g.stream order by s.originator_version desc limit 1
        ) head on true
        where coalesce(head.originator_version, 0) = g.version
          and (g.version = 0 or head.hash = g.hash)
          and g.nr <> all(losers)
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
