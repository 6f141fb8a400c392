-- Data keys, one or more per person, wrapped by the master key; in their own schema or their own database.

create table bichat_keys.master (
    fingerprint text        primary key,  -- derived from the master key, tells nothing of it
    created_at  timestamptz not null default clock_timestamp()
);

create table bichat_keys.data_keys (
    key_id      uuid        primary key,
    tenant_id   uuid        not null,
    user_id     text        not null,
    generation  int         not null,
    master      text        not null references bichat_keys.master,
    wrapped     bytea,      -- null: destroyed, the person is forgotten
    created_at  timestamptz not null default clock_timestamp(),
    destroyed_at timestamptz,
    unique (tenant_id, user_id, generation)
);
