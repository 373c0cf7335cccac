CREATE TABLE workflow_runs (
  number INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  definition TEXT NOT NULL,
  run TEXT NOT NULL,
  state TEXT NOT NULL,
  next_at INTEGER,
  author TEXT NOT NULL,
  key TEXT UNIQUE,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
);
CREATE INDEX workflow_runs_next ON workflow_runs (next_at) WHERE next_at IS NOT NULL;
CREATE TABLE workflow_waits (
  run INTEGER NOT NULL,
  kind TEXT NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (run, kind, number)
) WITHOUT ROWID;
ALTER TABLE schedules ADD COLUMN last_run INTEGER;
CREATE TABLE approvals_6 (
  number INTEGER PRIMARY KEY,
  task INTEGER,
  agent TEXT,
  workflow INTEGER,
  step TEXT,
  action TEXT NOT NULL,
  args TEXT NOT NULL,
  hash TEXT NOT NULL,
  why TEXT NOT NULL,
  state TEXT NOT NULL,
  silence TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  decided_by TEXT,
  note TEXT,
  created_at INTEGER NOT NULL,
  decided_at INTEGER
);
INSERT INTO approvals_6 SELECT number, task, agent, NULL, NULL, action, args, hash, why, state, silence, expires_at, decided_by, note, created_at, decided_at FROM approvals;
DROP TABLE approvals;
ALTER TABLE approvals_6 RENAME TO approvals;
CREATE INDEX approvals_task ON approvals (task);
