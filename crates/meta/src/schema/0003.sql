-- Version 3 adds mounts that were made ahead (containerd's mount manager).

CREATE TABLE mounts (
    id         INTEGER PRIMARY KEY REFERENCES nodes (id),
    number     INTEGER NOT NULL UNIQUE,     -- names the folder of the mounts, never used twice
    state      INTEGER NOT NULL,            -- 0 being made, 1 made, 2 being taken down
    active     TEXT NOT NULL,               -- orlop_mounts::Active as JSON: what was made, in order
    left_over  TEXT NOT NULL,               -- orlop_types::Mount as JSON: what the client is to make
    labels     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

INSERT INTO counters (name, value) VALUES ('mount', 0);
