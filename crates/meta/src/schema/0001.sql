-- Version 1. Times are nanoseconds since 1970, labels and annotations are JSON objects that SQL never looks into.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counters (name, value) VALUES ('snapshot', 0), ('ingest', 0);

CREATE TABLE namespaces (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    name   TEXT NOT NULL UNIQUE,
    labels TEXT NOT NULL
) STRICT;

-- One row for everything that can hold or be held, also for names that only a reference mentions so far (live = 0).
-- Collection reads this table and `refs`, and nothing else.
CREATE TABLE nodes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace  INTEGER NOT NULL REFERENCES namespaces (id),
    kind       INTEGER NOT NULL,            -- crate::node::NodeKind
    scope      TEXT NOT NULL,               -- the snapshotter of a snapshot, else empty
    key        TEXT NOT NULL,               -- digest, name, id or reference
    live       INTEGER NOT NULL DEFAULT 0,  -- 1: there is a record
    root       INTEGER NOT NULL DEFAULT 0,  -- 1: kept without being referred to, until expires_at
    flat       INTEGER NOT NULL DEFAULT 0,  -- 1: a lease that holds its resources but not what their labels name
    expires_at INTEGER,
    UNIQUE (namespace, kind, scope, key)
) STRICT;

CREATE INDEX nodes_expiry ON nodes (expires_at) WHERE expires_at IS NOT NULL;

-- source holds target. `owner` is the record that said so: the source of a reference, the target of a back reference.
CREATE TABLE refs (
    id     INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES nodes (id),
    target INTEGER NOT NULL REFERENCES nodes (id),
    owner  INTEGER NOT NULL REFERENCES nodes (id),
    kind   INTEGER NOT NULL,                -- crate::node::EdgeKind
    via    TEXT                             -- the label's key
) STRICT;

CREATE INDEX refs_owner ON refs (owner, target);
CREATE INDEX refs_source ON refs (source);
CREATE INDEX refs_target ON refs (target);

CREATE TABLE images (
    id          INTEGER PRIMARY KEY REFERENCES nodes (id),
    digest      TEXT NOT NULL,
    media_type  TEXT NOT NULL,
    size        INTEGER NOT NULL,
    annotations TEXT NOT NULL,
    labels      TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE content (
    id         INTEGER PRIMARY KEY REFERENCES nodes (id),
    size       INTEGER NOT NULL,
    media_type TEXT,
    labels     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE ingests (
    id              INTEGER PRIMARY KEY REFERENCES nodes (id),
    number          INTEGER NOT NULL UNIQUE,  -- names the ingest in the content store, never used twice
    expected_digest TEXT,
    expected_size   INTEGER,
    shared          INTEGER NOT NULL,         -- 1: the bytes are there already, held by another namespace
    media_type      TEXT,
    started_at      INTEGER NOT NULL
) STRICT;

CREATE TABLE snapshots (
    id           INTEGER PRIMARY KEY REFERENCES nodes (id),
    number       INTEGER NOT NULL,            -- the folder; several namespaces may share a committed one
    parent       INTEGER REFERENCES nodes (id),
    kind         INTEGER NOT NULL,            -- 1 view, 2 active, 3 committed
    state        INTEGER NOT NULL,            -- 0 preparing, 1 ready
    labels       TEXT NOT NULL,
    usage_bytes  INTEGER,
    usage_inodes INTEGER,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX snapshots_number ON snapshots (number);
CREATE INDEX snapshots_parent ON snapshots (parent) WHERE parent IS NOT NULL;

CREATE TABLE containers (
    id                INTEGER PRIMARY KEY REFERENCES nodes (id),
    image             TEXT NOT NULL,
    runtime_name      TEXT NOT NULL,
    runtime_options_type TEXT,
    runtime_options   BLOB,
    spec_type         TEXT NOT NULL,
    spec              BLOB NOT NULL,
    snapshotter       TEXT NOT NULL,
    snapshot_key      TEXT NOT NULL,
    sandbox           TEXT NOT NULL,
    extensions        TEXT NOT NULL,          -- name to type and base-16 value
    labels            TEXT NOT NULL,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL
) STRICT;

-- What the runtime knows of a running task: written before each outside effect, replayed after a restart.
CREATE TABLE tasks (
    namespace    INTEGER NOT NULL REFERENCES namespaces (id),
    container    TEXT NOT NULL,
    bundle       TEXT NOT NULL,
    shim_address TEXT NOT NULL,
    pid          INTEGER NOT NULL,
    state        INTEGER NOT NULL,            -- crate::records::TaskState
    exit_status  INTEGER,
    exited_at    INTEGER,
    record_version INTEGER NOT NULL,
    record       BLOB NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (namespace, container)
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    id         INTEGER PRIMARY KEY REFERENCES nodes (id),
    labels     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox (
    sequence  INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    topic     TEXT NOT NULL,
    payload   TEXT NOT NULL                   -- crate::Event as JSON
) STRICT;

-- What no row names any more and the disk still has.
CREATE TABLE sweeps (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       INTEGER NOT NULL,              -- crate::sweep::SweepKind
    scope      TEXT NOT NULL,                 -- the snapshotter, else empty
    key        TEXT NOT NULL,                 -- digest or number
    bytes      INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    queued_at  INTEGER NOT NULL,
    next_try_at INTEGER NOT NULL,
    last_error TEXT,
    UNIQUE (kind, scope, key)
) STRICT;

CREATE INDEX sweeps_next ON sweeps (next_try_at);
