-- Agents that are offered no more work, until they are started again or removed.
CREATE TABLE draining_agents (agent TEXT PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
