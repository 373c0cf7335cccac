CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tasks (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  text TEXT NOT NULL,
  state TEXT NOT NULL,
  phase TEXT NOT NULL,
  holder TEXT,
  assignee TEXT,
  pinned INTEGER NOT NULL,
  priority TEXT NOT NULL,
  author TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  token INTEGER NOT NULL,
  route TEXT NOT NULL,
  policy TEXT,
  result TEXT,
  failure TEXT,
  version INTEGER NOT NULL,
  queue_key INTEGER NOT NULL,
  deadline INTEGER,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
);
CREATE INDEX tasks_ready ON tasks (queue_key) WHERE state = 'ready';
CREATE INDEX tasks_held ON tasks (holder) WHERE holder IS NOT NULL;
CREATE INDEX tasks_deadline ON tasks (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX tasks_waiting ON tasks (state) WHERE state IN ('pending', 'parked', 'blocked');
CREATE TABLE runs (
  id TEXT PRIMARY KEY,
  task TEXT NOT NULL,
  agent TEXT NOT NULL,
  generation INTEGER NOT NULL,
  state TEXT NOT NULL,
  reason TEXT,
  configured_model TEXT,
  effective_model TEXT,
  actual_model TEXT,
  input INTEGER NOT NULL DEFAULT 0,
  output INTEGER NOT NULL DEFAULT 0,
  cached INTEGER NOT NULL DEFAULT 0,
  usage_source TEXT NOT NULL DEFAULT 'none',
  cost INTEGER NOT NULL DEFAULT 0,
  cost_unknown INTEGER NOT NULL DEFAULT 0,
  charter_hash TEXT,
  facts TEXT NOT NULL DEFAULT '{}',
  started_at INTEGER NOT NULL,
  ended_at INTEGER
) WITHOUT ROWID;
CREATE INDEX runs_task ON runs (task);
CREATE TABLE budgets (
  scope TEXT NOT NULL,
  metric TEXT NOT NULL,
  window TEXT NOT NULL,
  limit_ INTEGER,
  warn INTEGER NOT NULL,
  spent INTEGER NOT NULL,
  reserved INTEGER NOT NULL,
  period_start INTEGER NOT NULL,
  resets_at INTEGER,
  PRIMARY KEY (scope, metric)
) WITHOUT ROWID;
CREATE TABLE reservations (
  id TEXT PRIMARY KEY,
  run TEXT NOT NULL,
  task TEXT NOT NULL,
  agent TEXT NOT NULL,
  kind TEXT NOT NULL,
  amounts TEXT NOT NULL,
  scopes TEXT NOT NULL,
  at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX reservations_run ON reservations (run);
CREATE TABLE activity (
  seq INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  entity TEXT NOT NULL,
  detail TEXT NOT NULL,
  prev TEXT NOT NULL,
  hash TEXT NOT NULL
);
CREATE TABLE checkpoints (seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, signature BLOB NOT NULL, at INTEGER NOT NULL);
CREATE TABLE generations (
  generation INTEGER PRIMARY KEY,
  manifest TEXT NOT NULL,
  base_dir TEXT NOT NULL,
  applied TEXT NOT NULL,
  charters TEXT NOT NULL,
  newest_uid INTEGER NOT NULL,
  at INTEGER NOT NULL
);
CREATE TABLE allocations (
  kind TEXT NOT NULL,
  value TEXT NOT NULL,
  owner TEXT NOT NULL,
  purpose TEXT NOT NULL,
  PRIMARY KEY (kind, value)
) WITHOUT ROWID;
CREATE TABLE cells (name TEXT PRIMARY KEY, wanted_up INTEGER NOT NULL, history TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (hash TEXT PRIMARY KEY, principal TEXT NOT NULL, scope TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER) WITHOUT ROWID;
CREATE TABLE idempotency (key TEXT PRIMARY KEY, digest TEXT NOT NULL, task TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sagas (id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, steps TEXT NOT NULL, state TEXT NOT NULL, open INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE saga_log (saga TEXT NOT NULL, n INTEGER NOT NULL, event TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (saga, n)) WITHOUT ROWID;
CREATE TABLE wakes (agent TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
