-- A deleted plan, consumer or service keeps its row, which the ledger's rows name it by, and gives
-- its name away. So names are unique among the living only, which takes tables without the UNIQUE
-- of 0001. Places are kept; references from other tables are checked when the migration commits.
PRAGMA defer_foreign_keys = ON;

CREATE TEMP TABLE old_plans AS SELECT * FROM plans;
DROP TABLE plans;
CREATE TABLE plans (
    place        INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    rate_per_s   INTEGER NOT NULL CHECK (rate_per_s > 0),
    burst        INTEGER NOT NULL CHECK (burst > 0),
    quota_tokens INTEGER NOT NULL CHECK (quota_tokens >= 0),
    when_lost    TEXT CHECK (when_lost IN ('closed', 'degraded', 'open')),
    created_at   TEXT NOT NULL,
    deleted_at   TEXT
) STRICT;
INSERT INTO plans SELECT *, NULL FROM old_plans;
DROP TABLE old_plans;
CREATE UNIQUE INDEX plans_by_name ON plans (name) WHERE deleted_at IS NULL;

-- Namesakes from before the rule stay (0007): no unique index here.
ALTER TABLE consumers ADD COLUMN deleted_at TEXT;

CREATE TEMP TABLE old_services AS SELECT * FROM services;
DROP TABLE services;
CREATE TABLE services (
    place             INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    name              TEXT NOT NULL,
    base_url          TEXT NOT NULL,
    default_path      TEXT NOT NULL,
    credential_header TEXT,
    enabled           INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at        TEXT NOT NULL,
    credential_sealed BLOB,
    deleted_at        TEXT
) STRICT;
INSERT INTO services SELECT *, NULL FROM old_services;
DROP TABLE old_services;
CREATE UNIQUE INDEX services_by_name ON services (name) WHERE deleted_at IS NULL;
