-- From schema version 1 to 2. Run once, before tables.sql; what is there already is passed over.

ALTER TABLE subak_outlet ADD COLUMN AppliedEpoch VARCHAR(32) NOT NULL DEFAULT '';

ALTER TABLE subak_outlet ADD COLUMN StableSeen BIGINT UNSIGNED NOT NULL DEFAULT 0;

ALTER TABLE subak_outlet ADD COLUMN PurgedSequence BIGINT UNSIGNED NOT NULL DEFAULT 0;

ALTER TABLE subak_outlet ADD COLUMN PurgedEpoch VARCHAR(32) NOT NULL DEFAULT '';

ALTER TABLE subak_outlet ADD COLUMN ResyncAt BIGINT;

ALTER TABLE subak_outlet ADD COLUMN ResyncReason VARCHAR(255) NOT NULL DEFAULT '';

ALTER TABLE subak_outlet ADD COLUMN SkewMicros BIGINT;

CREATE INDEX BatchStored ON subak_batch (StoredAt);
