-- Version 1. Times are seconds since 1970, digests are texts, sizes bytes. What is here can all be found again, by looking at
-- the folder or by asking upstream, except pins and the ledger.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What lies in content/blobs, verified.
CREATE TABLE blobs (
    digest     TEXT PRIMARY KEY,
    size       INTEGER NOT NULL,
    media_type TEXT,
    added_at   INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    uses       INTEGER NOT NULL,
    checked_at INTEGER              -- when its bytes were last hashed again; NULL: as soon as possible
) STRICT, WITHOUT ROWID;

CREATE INDEX blobs_checked ON blobs (checked_at);

-- Names of registries' repositories: `docker.io/library/alpine`.
CREATE TABLE repositories (
    id      INTEGER PRIMARY KEY,
    locator TEXT NOT NULL UNIQUE
) STRICT;

-- A repository has this blob or manifest.
CREATE TABLE links (
    digest     TEXT NOT NULL,
    repository INTEGER NOT NULL REFERENCES repositories (id),
    PRIMARY KEY (digest, repository)
) STRICT, WITHOUT ROWID;

CREATE INDEX links_repository ON links (repository);

-- What a manifest names, in its order.
CREATE TABLE children (
    parent     TEXT NOT NULL,
    position   INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    size       INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    PRIMARY KEY (parent, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX children_digest ON children (digest);

CREATE TABLE tags (
    repository INTEGER NOT NULL REFERENCES repositories (id),
    tag        TEXT NOT NULL,
    digest     TEXT NOT NULL,
    media_type TEXT,
    checked_at INTEGER NOT NULL,    -- when upstream last said so
    PRIMARY KEY (repository, tag)
) STRICT, WITHOUT ROWID;

CREATE INDEX tags_digest ON tags (digest);

-- Upstream showed this digest in this repository to whoever has this credential.
CREATE TABLE grants (
    credential BLOB NOT NULL,       -- a fingerprint, never the credential
    repository INTEGER NOT NULL REFERENCES repositories (id),
    digest     TEXT NOT NULL,
    given_at   INTEGER NOT NULL,
    until      INTEGER NOT NULL,
    PRIMARY KEY (credential, repository, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX grants_until ON grants (until);

-- Kept whatever the policy says, with all that it names. Need not be here yet.
CREATE TABLE pins (
    digest    TEXT NOT NULL,
    owner     TEXT NOT NULL,
    reason    TEXT NOT NULL,
    pinned_at INTEGER NOT NULL,
    PRIMARY KEY (digest, owner)
) STRICT, WITHOUT ROWID;

-- Begun and not finished.
CREATE TABLE fills (
    digest     TEXT PRIMARY KEY,
    size       INTEGER NOT NULL,
    repository INTEGER NOT NULL REFERENCES repositories (id),
    begun_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Files that have to go: written before they do, deleted after. The command line asks by such a row, too.
CREATE TABLE removals (
    digest   TEXT PRIMARY KEY,
    reason   TEXT NOT NULL,
    asked_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Files whose bytes were found to be others than their names say; they lie in content/aside.
CREATE TABLE aside (
    digest TEXT PRIMARY KEY,
    size   INTEGER NOT NULL,
    since  INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Which repository has what: by a link, or because a manifest of it names it. Some twice: with UNION, SQLite would read all
-- links for each question.
CREATE VIEW holders AS
    SELECT digest, repository FROM links
    UNION ALL
    SELECT children.digest, links.repository FROM children JOIN links ON links.digest = children.parent;

-- What pins keep: what they name, what that names, and so on.
CREATE VIEW pinned AS
    WITH RECURSIVE reached (digest) AS (
        SELECT digest FROM pins
        UNION
        SELECT children.digest FROM children JOIN reached ON children.parent = reached.digest
    )
    SELECT digest FROM reached;

-- The ledger. Digests and repositories have numbers of its own: they outlive what is kept.
CREATE TABLE ledger_digests (
    id     INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    kind   INTEGER NOT NULL,        -- ledger::Kind
    size   INTEGER NOT NULL         -- the most that one request was sent
) STRICT;

CREATE TABLE ledger_repositories (
    id      INTEGER PRIMARY KEY,
    locator TEXT NOT NULL UNIQUE
) STRICT;

-- Single requests, for some days.
CREATE TABLE ledger_requests (
    id         INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,    -- milliseconds since 1970
    client     TEXT NOT NULL,
    repository INTEGER NOT NULL,
    kind       INTEGER NOT NULL,
    reference  TEXT,
    digest     INTEGER,
    bytes      INTEGER NOT NULL,
    source     INTEGER NOT NULL,
    outcome    INTEGER NOT NULL,
    took       INTEGER NOT NULL     -- microseconds
) STRICT;

CREATE INDEX ledger_requests_at ON ledger_requests (at);

-- Sums of each UTC day, counted from 1970-01-01.
CREATE TABLE ledger_days (
    day               INTEGER NOT NULL,
    digest            INTEGER NOT NULL,
    repository        INTEGER NOT NULL,
    requests          INTEGER NOT NULL,
    bytes             INTEGER NOT NULL,
    upstream_requests INTEGER NOT NULL,
    upstream_bytes    INTEGER NOT NULL,
    PRIMARY KEY (day, digest, repository)
) STRICT, WITHOUT ROWID;
