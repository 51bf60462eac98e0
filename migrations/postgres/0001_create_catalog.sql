-- Identities are integers of 60 bits; the API shows them as 12 characters of Crockford's base 32.
-- No row is ever deleted: place, the order of creation, is what lists are paged by and what gives
-- plans and services their index in the shards. A deleted row keeps its place and loses its name.
-- changed grows with every change of a row, over all tables: whoever has seen all up to a number
-- asks for what is above it. Changes are made one after the other, so none is seen too late.
-- On Citus these are reference tables.
CREATE SEQUENCE catalog_changes AS bigint;

CREATE TABLE plans (
    place        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           bigint NOT NULL UNIQUE,
    name         text NOT NULL,
    rate_per_s   bigint NOT NULL CHECK (rate_per_s > 0),
    burst        bigint NOT NULL CHECK (burst > 0),
    quota_tokens bigint NOT NULL CHECK (quota_tokens >= 0),
    when_lost    text CHECK (when_lost IN ('closed', 'degraded', 'open')),
    created_at   timestamptz NOT NULL,
    deleted_at   timestamptz,
    changed      bigint NOT NULL
);
CREATE UNIQUE INDEX plans_by_name ON plans (name) WHERE deleted_at IS NULL;
CREATE INDEX plans_by_change ON plans (changed);

CREATE TABLE consumers (
    place      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         bigint NOT NULL UNIQUE,
    name       text NOT NULL,
    plan_id    bigint NOT NULL REFERENCES plans (id),
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    changed    bigint NOT NULL
);
CREATE INDEX consumers_by_name ON consumers (name);
CREATE INDEX consumers_by_plan ON consumers (plan_id);
CREATE INDEX consumers_by_change ON consumers (changed);

-- credential_sealed is a form byte, the key's name, a nonce and the ciphertext.
CREATE TABLE services (
    place             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                bigint NOT NULL UNIQUE,
    name              text NOT NULL,
    base_url          text NOT NULL,
    default_path      text NOT NULL,
    credential_sealed bytea,
    enabled           boolean NOT NULL,
    created_at        timestamptz NOT NULL,
    deleted_at        timestamptz,
    changed           bigint NOT NULL
);
CREATE UNIQUE INDEX services_by_name ON services (name) WHERE deleted_at IS NULL;
CREATE INDEX services_by_change ON services (changed);

-- price is the API's JSON.
CREATE TABLE prices (
    service_id           bigint NOT NULL REFERENCES services (id),
    version              integer NOT NULL,
    effective_at_unix_us bigint NOT NULL,
    price                jsonb NOT NULL,
    created_at           timestamptz NOT NULL,
    PRIMARY KEY (service_id, version)
);

-- secret_hash is an Argon2id PHC string. bucket_id is shared by a rotated key and its successor.
-- services: null is all. digest: of a verified key, the digest key's name (8 bytes) and the keyed
-- BLAKE3 of the key's text.
CREATE TABLE keys (
    place              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                 bigint NOT NULL UNIQUE,
    consumer_id        bigint NOT NULL REFERENCES consumers (id),
    bucket_id          bigint NOT NULL,
    name               text,
    secret_hash        text NOT NULL,
    services           bigint[],
    expires_at_unix_us bigint,
    revoked_at         timestamptz,
    created_at         timestamptz NOT NULL,
    digest             bytea,
    changed            bigint NOT NULL
);
CREATE INDEX keys_by_consumer ON keys (consumer_id, place);
CREATE INDEX keys_by_change ON keys (changed);
