CREATE TABLE escalations (
  task INTEGER PRIMARY KEY,
  receiver TEXT NOT NULL,
  at INTEGER NOT NULL,
  until INTEGER
);
