-- Where each build of each read model stands, and who is answering what.

create table bichat.checkpoints (
    name       text        not null,
    shape      int         not null,
    build      int         not null,
    partition  int         not null default 0,
    position   bigint      not null default 0,
    state      text        not null default 'live' check (state in ('live', 'building', 'stopped')),
    error      text        not null default '',
    updated_at timestamptz not null default clock_timestamp(),
    primary key (name, shape, build, partition)
) with (fillfactor = 50);

-- One table whatever versions of the read model `replies` exist; no rebuild touches it. A row without a
-- holder was handed back: its question may not be claimed before `expires_at`.
create table bichat.reply_leases (
    message_id  uuid        primary key,
    tenant_id   uuid        not null,
    dialogue_id uuid        not null,
    holder      text        not null,
    expires_at  timestamptz not null
) with (fillfactor = 50);
create index reply_leases_dialogue on bichat.reply_leases (dialogue_id);

alter table bichat.reply_leases enable row level security;
