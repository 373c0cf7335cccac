-- Keys of requests that a model of a provider refused, so that calls are made without them.
CREATE TABLE refused_keys (
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  key TEXT NOT NULL,
  PRIMARY KEY (provider, model, key)
) WITHOUT ROWID;
