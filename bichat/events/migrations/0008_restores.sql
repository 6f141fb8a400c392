-- Backups that this log was restored from. While one is not done, nothing but its restore may work here.

create table bichat.restores (
    backup     text        not null,  -- digest of its list of digests
    made_at    timestamptz not null,  -- the backup
    position   bigint      not null,  -- how far its log goes
    phase      text        not null check (phase in ('loading', 'loaded', 'done')),
    began_at   timestamptz primary key default clock_timestamp(),
    done_at    timestamptz
);
create unique index restores_under_way on bichat.restores ((true)) where phase <> 'done';
