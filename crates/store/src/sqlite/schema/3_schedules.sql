CREATE TABLE schedules (
  name TEXT PRIMARY KEY,
  digest TEXT NOT NULL,
  since INTEGER NOT NULL,
  settled INTEGER NOT NULL,
  fired INTEGER NOT NULL,
  skipped INTEGER NOT NULL,
  missed INTEGER NOT NULL,
  last_task INTEGER
) WITHOUT ROWID;
CREATE TABLE schedule_log (
  name TEXT NOT NULL,
  instant INTEGER NOT NULL,
  at INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  task INTEGER,
  PRIMARY KEY (name, instant)
) WITHOUT ROWID;
