-- Who is to be forgotten and who was, and what a change of keys and of master keys needs.

create table bichat_keys.erasures (
    erasure_id   uuid        primary key,
    tenant_id    uuid        not null,
    user_id      text        not null,
    actor_kind   text        not null,  -- who asked for it
    actor_id     text        not null,
    asked_at     timestamptz not null default clock_timestamp(),
    ordered_at   timestamptz,           -- the log says so: from here on nothing is sealed for the person ...
    destroyed_at timestamptz,           -- ... until every key of theirs is destroyed
    done_at      timestamptz,
    dialogues    int         not null default 0,   -- that were told to drop their text
    keys         int         not null default 0,   -- that were destroyed
    unreadable   uuid[]      not null default '{}' -- dialogues that could not be told: what is sealed in them is gone too
);
create unique index erasures_of_person on bichat_keys.erasures (tenant_id, user_id) where destroyed_at is null;
create index erasures_of_tenant on bichat_keys.erasures (tenant_id, erasure_id);
create index erasures_open on bichat_keys.erasures (asked_at) where done_at is null;

-- Counts the transactions that destroyed or superseded keys: each holds the row until its commit, so whoever
-- reads a number sees everything that was counted up to it, and looks whether what it holds is still good.
create table bichat_keys.changes (
    one    boolean primary key default true check (one),
    number bigint  not null
);
insert into bichat_keys.changes (number) values (0);

-- The newest master that is not retired wraps; a retired one has nothing left that it wraps.
alter table bichat_keys.master add column retired_at timestamptz;
