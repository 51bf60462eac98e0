-- Into how many parts each month's records and the sums are split by their consumer; 1: they are
-- whole. `tollgate store partition` says otherwise, and splits what is there.
CREATE TABLE usage_split (
    only_row integer PRIMARY KEY CHECK (only_row = 1),
    parts    integer NOT NULL CHECK (parts BETWEEN 1 AND 1024)
);
INSERT INTO usage_split VALUES (1, 1);
