-- From schema version 1 to 2. Run once, before tables.sql; what is there already is passed over.

ALTER TABLE subak_outlet ADD COLUMN AppliedEpoch TEXT NOT NULL DEFAULT '';

ALTER TABLE subak_outlet ADD COLUMN StableSeen INTEGER NOT NULL DEFAULT 0;

ALTER TABLE subak_outlet ADD COLUMN PurgedSequence INTEGER NOT NULL DEFAULT 0;

ALTER TABLE subak_outlet ADD COLUMN PurgedEpoch TEXT NOT NULL DEFAULT '';

ALTER TABLE subak_outlet ADD COLUMN ResyncAt INTEGER;

ALTER TABLE subak_outlet ADD COLUMN ResyncReason TEXT NOT NULL DEFAULT '';

ALTER TABLE subak_outlet ADD COLUMN SkewMicros INTEGER;

CREATE INDEX BatchStored ON subak_batch (StoredAt);
