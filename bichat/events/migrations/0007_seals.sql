-- Seals: from time to time a signed root over the heads of all streams that have changed since the one before.

create table bichat.seals (
    number     bigint      primary key,  -- from 1, without gaps
    position   bigint      not null,     -- every event up to here is under this seal or one before
    events     bigint      not null,     -- new under this one
    streams    bigint      not null,     -- its leaves
    at         timestamptz not null,
    root       bytea       not null,     -- of the Merkle tree over its leaves, in the order of the streams' ids
    previous   bytea       not null,     -- hash of the seal before, 32 zero bytes before the first
    public_key bytea       not null,     -- that the signature is by
    hash       bytea       not null,     -- of all of the above
    signature  bytea       not null
);

-- One for each stream with new events: where it stood. The chain inside the stream proves the rest.
create table bichat.seal_leaves (
    seal      bigint not null references bichat.seals,
    stream_id uuid   not null,
    tenant_id uuid   not null,
    version   bigint not null,
    leaf      bytea  not null,  -- hash of tenant, stream, version and the hash of the event there
    primary key (seal, stream_id)
);
create index seal_leaves_stream on bichat.seal_leaves (stream_id, version);

-- Seals tell nothing of anybody; leaves tell which streams there are.
grant select on bichat.seals to bichat_reader;
alter table bichat.seal_leaves enable row level security;
create policy tenant on bichat.seal_leaves for select to bichat_reader
    using (tenant_id = nullif(current_setting('bichat.tenant', true), '')::uuid);
grant select on bichat.seal_leaves to bichat_reader;

-- What a proof needs of other tenants: the hashes of a seal's leaves, in their order, and not whose they are.
create function bichat.leaves_of(number bigint) returns setof bytea
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$ select leaf from bichat.seal_leaves where seal = number order by stream_id $$;
revoke all on function bichat.leaves_of from public;
grant execute on function bichat.leaves_of to bichat_reader;

-- Seals after one of which a leaf is not what the log gives: somebody may have given a stream's leaf to another.
create function bichat.unfit_seals(after bigint) returns setof bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select distinct l.seal from bichat.seal_leaves l
    left join bichat.stored_events e on e.originator_id = l.stream_id and e.originator_version = l.version
    where l.seal > after and l.leaf is distinct from sha256(
        '\x00'::bytea || uuid_send(l.tenant_id) || uuid_send(l.stream_id) || int8send(l.version) || e.hash)
    order by 1
$$;
revoke all on function bichat.unfit_seals from public;
grant execute on function bichat.unfit_seals to bichat_reader;
