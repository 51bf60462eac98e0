-- The keys ([secrets]) that all instances on this store need, by names that tell nothing of them.
CREATE TABLE secrets_fingerprint (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    digest_key bytea NOT NULL,
    encryption_key bytea NOT NULL
);
