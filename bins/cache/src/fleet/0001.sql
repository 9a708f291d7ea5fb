-- Who has a duty: filling a blob, moving blobs between tiers. Rows go when the duty is given back.
CREATE TABLE orlop_lease (
    duty text PRIMARY KEY,
    holder text NOT NULL,
    life text NOT NULL,
    token text NOT NULL,
    address text,
    until timestamptz NOT NULL
);

-- What a tag pointed to when its upstream was asked last.
CREATE TABLE orlop_tag (
    locator text,
    tag text,
    digest text NOT NULL,
    media_type text,
    checked timestamptz NOT NULL,
    PRIMARY KEY (locator, tag)
);

-- Who has proved that it may read what. Of a credential there is its SHA-256 only.
CREATE TABLE orlop_grant (
    fingerprint bytea,
    locator text,
    digest text,
    until timestamptz NOT NULL,
    PRIMARY KEY (fingerprint, locator, digest)
);
CREATE INDEX orlop_grant_until ON orlop_grant (until);

CREATE TABLE orlop_pin (
    digest text PRIMARY KEY
);

-- How often each digest was pulled at each replica, as it told last.
CREATE TABLE orlop_pulls (
    replica text,
    digest text,
    week bigint NOT NULL,
    month bigint NOT NULL,
    told timestamptz NOT NULL,
    PRIMARY KEY (replica, digest)
);
