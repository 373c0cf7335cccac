-- New agents whose first files come from elsewhere, until the host has put them in place.
CREATE TABLE first_files (
  agent TEXT PRIMARY KEY,
  source TEXT NOT NULL
);
