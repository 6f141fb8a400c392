-- What signs seals of the log, and the newest seal: kept here, so that nobody who holds only the log can cut both off.

create table bichat_keys.signing_keys (
    public_key bytea       primary key,
    master     text        references bichat_keys.master,
    wrapped    bytea,      -- null: the private key comes from the environment
    created_at timestamptz not null default clock_timestamp(),
    check ((master is null) = (wrapped is null))
);

create table bichat_keys.anchor (
    one    boolean     primary key default true check (one),
    number bigint      not null,
    hash   bytea       not null,
    at     timestamptz not null default clock_timestamp()
);

-- Seals that went when an older backup of the log was restored, as whoever restored it has said.
create table bichat_keys.set_backs (
    kept   bigint      not null,  -- the last seal that the backup has
    lost   bigint      not null,  -- the last one that is gone
    hash   bytea       not null,  -- of that
    at     timestamptz not null default clock_timestamp(),
    primary key (kept, lost),  -- a backup can be restored again
    check (lost > kept)
);
