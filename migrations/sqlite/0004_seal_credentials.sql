-- An upstream credential rests encrypted: credential_sealed is a form byte, the key's name, a
-- nonce and the ciphertext. credential_header is read no more; the first start that finds one
-- seals it, and user_version 1 says that what SQLite left of it in the file is yet to be removed.
ALTER TABLE services ADD COLUMN credential_sealed BLOB;
PRAGMA user_version = 1;
