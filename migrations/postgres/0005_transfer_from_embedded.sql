-- How far `tollgate migrate` has come with each table of an embedded store; source: a digest of all
-- that is in it. Until all of them are done, no instance uses the store.
CREATE TABLE transfers (
    name    text PRIMARY KEY,
    source  text NOT NULL,
    rows    bigint NOT NULL,
    is_done boolean NOT NULL
);
