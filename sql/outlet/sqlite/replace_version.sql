-- Puts a row's version into subak_version, or in the place of the one that is there. Subak's applier runs it, under the row's lock.

REPLACE INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage, ColumnStamps)
VALUES ({{TableName}}, {{RowId}}, {{Stamp}}, {{Origin}}, {{BaseStamp}}, {{BaseOrigin}}, {{Deleted}}, {{LastImage}}, {{ColumnStamps}});
