-- Tokens of the operator API that an operator named; credentials that Abbey issues itself have no name.
ALTER TABLE tokens ADD COLUMN name TEXT;
ALTER TABLE tokens ADD COLUMN last_used_at INTEGER;
CREATE UNIQUE INDEX tokens_name ON tokens (name) WHERE name IS NOT NULL;
