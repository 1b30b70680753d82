-- From schema version 1 to 2. Run once, before tables.sql; what is there already is passed over.

ALTER TABLE subak.subak_version ADD ColumnStamps NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL;

ALTER TABLE subak.CloudQuery ADD CONSTRAINT CloudQueryStamp UNIQUE NONCLUSTERED (Stamp, Id);
