-- From schema version 1 to 2. Run once, before tables.sql; what is there already is passed over.

ALTER TABLE subak_version ADD COLUMN ColumnStamps TEXT;
