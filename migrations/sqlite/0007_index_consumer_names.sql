-- A new consumer's name is looked for among all; namesakes from before the rule stay.
CREATE INDEX consumers_by_name ON consumers (name);
