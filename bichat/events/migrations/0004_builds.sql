-- Builds of read models side by side, what they could not digest, and the reports that say they are right.

alter table bichat.checkpoints
    add column fold      int  not null default 1,   -- of the code that may write here: of this fold, or of a newer one
    add column runner    text not null default '',  -- who follows, or did last: host:pid
    add column rate      real not null default 0,   -- events a second, as its runner last measured
    add column takeovers int  not null default 0,   -- since the last batch that was committed
    add column trying    uuid;                      -- the dialogue that is being applied alone, after too many takeovers

-- How far a rebuild has come; a build that was there from the first event has no row.
create table bichat.builds (
    name       text        not null,
    shape      int         not null,
    build      int         not null,
    phase      text        not null check (
        phase in ('requested', 'loading', 'indexing', 'following', 'verifying', 'done', 'failed')),
    by_ops     boolean     not null default false,  -- asked for over HTTP: a projector goes on with it
    fence      bigint      not null default 0,      -- the bulk part holds the log up to here
    bounds     uuid[]      not null default '{}',   -- between these stream ids lie the slices
    loaded     int[]       not null default '{}',   -- slices that are in the tables
    events     bigint      not null default 0,      -- in these slices
    runner     text        not null default '',     -- who builds, or did last: host:pid
    error      text        not null default '',
    started_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    primary key (name, shape, build)
);

-- The first event of a dialogue that a build could not digest; it and all later ones of the dialogue wait.
create table bichat.parked (
    name        text        not null,
    shape       int         not null,
    build       int         not null,
    dialogue_id uuid        not null,
    tenant_id   uuid        not null,
    position    bigint      not null,
    version     bigint      not null,
    error       text        not null,
    parked_at   timestamptz not null default clock_timestamp(),
    tried_at    timestamptz not null default clock_timestamp(),
    primary key (name, shape, build, dialogue_id)
);
alter table bichat.parked enable row level security;
create policy tenant on bichat.parked for select to bichat_reader
    using (tenant_id = nullif(current_setting('bichat.tenant', true), '')::uuid);
grant select on bichat.parked to bichat_reader;

create table bichat.reports (
    id      bigint      generated always as identity primary key,
    name    text        not null,
    shape   int         not null,
    build   int         not null,
    valid   boolean     not null,
    made_at timestamptz not null default clock_timestamp(),
    report  jsonb       not null
);

-- Which build each view shows.
create table if not exists bichat.serving (
    name  text not null,
    shape int  not null,
    build int  not null,
    primary key (name, shape)
);
grant select on bichat.serving to bichat_reader;

-- Whether somebody holds the advisory lock of this name. Not tried: nobody shall find it taken by who looks.
create function bichat.held(what text) returns boolean language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_catalog.pg_locks l
        where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
          and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
          and l.classid::bigint << 32 | l.objid::bigint = hashtextextended(what, 0))
$$;

-- Every build and how it is: for operators, who see the installation and no tenant's rows.
create function bichat.projections() returns table (
    name text, shape int, build int, fold int, serves boolean, state text, phase text, error text,
    "position" bigint, head bigint, lag_events bigint, lag_seconds double precision, rate real, parked bigint,
    runner text, running boolean, slices int, loaded int, updated_at timestamptz
) language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    with log as (select bichat.head() as head)
    select c.name, c.shape, c.build, c.fold,
           exists (select from bichat.serving s where (s.name, s.shape, s.build) = (c.name, c.shape, c.build)),
           c.state, coalesce(b.phase, 'done'),
           case when c.error <> '' then c.error else coalesce(b.error, '') end,
           c.position, log.head,
           -- Counted as far as that is cheap; positions have few gaps.
           case when behind.counted < 1000 then behind.counted else log.head - c.position end,
           coalesce(extract(epoch from clock_timestamp() - behind.since), 0)::double precision,
           case when c.updated_at > clock_timestamp() - interval '10 seconds' then c.rate else 0 end,
           (select count(*) from bichat.parked p where (p.name, p.shape, p.build) = (c.name, c.shape, c.build)),
           case when b.phase in ('loading', 'indexing') then b.runner else c.runner end,
           bichat.held(case when b.phase in ('requested', 'loading', 'indexing') then 'bichat.rebuild.' || c.name
                            else format('bichat.%s_v%s_g%s', c.name, c.shape, c.build) end),
           cardinality(b.bounds) + 1, cardinality(b.loaded), c.updated_at
    from bichat.checkpoints c
    cross join log
    left join bichat.builds b using (name, shape, build)
    cross join lateral (
        select count(*) as counted, min(e.recorded_at) as since
        from (select recorded_at from bichat.stored_events where notification_id > c.position
              order by notification_id limit 1000) e
    ) behind
    order by c.name, c.shape, c.build
$$;
revoke all on function bichat.held from public;
grant execute on function bichat.held to bichat_reader;
revoke all on function bichat.projections from public;
grant execute on function bichat.projections to bichat_reader;

-- A row for a build to be made, under the next number that was never used.
create function bichat.new_build(of text, of_shape int, of_fold int, from_ops boolean) returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    number int;
begin
    select greatest(
        (select max(c.build) from bichat.checkpoints c where c.name = of and c.shape = of_shape),
        (select max(r.build) from bichat.reports r where r.name = of and r.shape = of_shape), 0) + 1
    into number;
    insert into bichat.builds (name, shape, build, phase, by_ops)
    values (of, of_shape, number, 'requested', from_ops);
    insert into bichat.checkpoints (name, shape, build, fold, state)
    values (of, of_shape, number, of_fold, 'building');
    return number;
end
$$;
revoke all on function bichat.new_build from public;

-- Files a rebuild for who may not write, or finds the one that is not finished; `held` when somebody works on it.
create function bichat.request_rebuild(of text, of_shape int, of_fold int) returns table (
    newest_fold int, build int, phase text, held boolean, runner text, started_at timestamptz
) language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
    number int;
    newest int;
    busy boolean := bichat.held('bichat.rebuild.' || of);
begin
    perform pg_advisory_xact_lock(hashtextextended('bichat.serving', 0));
    select max(c.fold) into newest
    from bichat.checkpoints c left join bichat.builds b using (name, shape, build)
    where c.name = of and c.shape = of_shape and coalesce(b.phase, 'done') = 'done';
    if newest > of_fold then  -- newer code's: nothing is filed
        return query select newest, null::int, null::text, null::boolean, null::text, null::timestamptz;
        return;
    end if;
    select max(b.build) into number from bichat.builds b
    where b.name = of and b.shape = of_shape and (busy or b.phase not in ('done', 'failed'));
    if number is null and not busy then
        if not exists (select from bichat.serving s where s.name = of and s.shape = of_shape) then
            raise exception 'there is no such read model' using errcode = 'invalid_parameter_value';
        end if;
        number := bichat.new_build(of, of_shape, of_fold, true);
    elsif not busy then
        update bichat.builds b set by_ops = true
        where b.name = of and b.shape = of_shape and b.build = number;
    end if;
    return query select newest, b.build, b.phase, busy, b.runner, b.started_at from bichat.builds b
    where b.name = of and b.shape = of_shape and b.build = number;
end
$$;
revoke all on function bichat.request_rebuild from public;
grant execute on function bichat.request_rebuild to bichat_reader;
