CREATE TABLE approvals (
  number INTEGER PRIMARY KEY,
  task INTEGER NOT NULL,
  agent TEXT NOT NULL,
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
CREATE INDEX approvals_task ON approvals (task);
