-- What a parked task waits for, so that the end of a wait finds its tasks.
ALTER TABLE tasks ADD COLUMN waiting TEXT;
CREATE INDEX tasks_waiting_for ON tasks (waiting, queue_key) WHERE waiting IS NOT NULL;
-- Why the last model call of a run was refused for now, and why the run failed.
ALTER TABLE runs ADD COLUMN wait TEXT;
ALTER TABLE runs ADD COLUMN failure TEXT;
-- Providers whose last calls failed.
CREATE TABLE provider_health (
  provider TEXT PRIMARY KEY,
  condition TEXT NOT NULL
);
