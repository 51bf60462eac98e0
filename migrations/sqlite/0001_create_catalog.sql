-- Identities are 12 characters of Crockford's base 32, as the API shows them.
-- Times are RFC 3339 text in UTC unless a name says _unix_us.
-- No row is ever deleted: place, the order of creation, is what lists are paged by and what gives
-- plans and services their index in the shards.
CREATE TABLE plans (
    place        INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    name         TEXT NOT NULL UNIQUE,
    rate_per_s   INTEGER NOT NULL CHECK (rate_per_s > 0),
    burst        INTEGER NOT NULL CHECK (burst > 0),
    quota_tokens INTEGER NOT NULL CHECK (quota_tokens >= 0),
    when_lost    TEXT CHECK (when_lost IN ('closed', 'degraded', 'open')),
    created_at   TEXT NOT NULL
) STRICT;

CREATE TABLE consumers (
    place      INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    plan_id    TEXT NOT NULL REFERENCES plans (id),
    created_at TEXT NOT NULL
) STRICT;

-- credential_header is a whole header line without its line end.
CREATE TABLE services (
    place             INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    name              TEXT NOT NULL UNIQUE,
    base_url          TEXT NOT NULL,
    default_path      TEXT NOT NULL,
    credential_header TEXT,
    enabled           INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at        TEXT NOT NULL
) STRICT;

-- price is the API's JSON.
CREATE TABLE prices (
    service_id           TEXT NOT NULL REFERENCES services (id),
    version              INTEGER NOT NULL,
    effective_at_unix_us INTEGER NOT NULL,
    price                TEXT NOT NULL,
    created_at           TEXT NOT NULL,
    PRIMARY KEY (service_id, version)
) STRICT, WITHOUT ROWID;

-- secret_hash is an Argon2id PHC string. bucket_id is shared by a rotated key and its successor.
-- services is a JSON array of ids, or null: all.
CREATE TABLE keys (
    place              INTEGER PRIMARY KEY,
    id                 TEXT NOT NULL UNIQUE,
    consumer_id        TEXT NOT NULL REFERENCES consumers (id),
    bucket_id          TEXT NOT NULL,
    name               TEXT,
    secret_hash        TEXT NOT NULL,
    services           TEXT,
    expires_at_unix_us INTEGER,
    revoked_at         TEXT,
    created_at         TEXT NOT NULL
) STRICT;
CREATE INDEX keys_by_consumer ON keys (consumer_id, place);
