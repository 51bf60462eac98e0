-- Of a verified key: the digest key's name (8 bytes) and the keyed BLAKE3 of the key's text.
ALTER TABLE keys ADD COLUMN digest BLOB;
