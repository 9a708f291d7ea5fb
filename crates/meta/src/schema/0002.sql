-- Version 2 adds sandboxes, as containerd's schema 4 did.

CREATE TABLE sandboxes (
    id                INTEGER PRIMARY KEY REFERENCES nodes (id),
    sandboxer         TEXT NOT NULL,
    runtime_name      TEXT NOT NULL,
    runtime_options_type TEXT,
    runtime_options   BLOB,
    spec_type         TEXT,
    spec              BLOB,
    extensions        TEXT NOT NULL,
    labels            TEXT NOT NULL,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL
) STRICT;
