-- Agents that were given another name, oldest first; `pending` until the host has followed.
CREATE TABLE renamed_agents (
  seq INTEGER PRIMARY KEY,
  old TEXT NOT NULL,
  new TEXT NOT NULL,
  at INTEGER NOT NULL,
  pending INTEGER NOT NULL
);
