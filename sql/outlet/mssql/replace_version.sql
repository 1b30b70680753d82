-- Puts a row's version into subak_version, or in the place of the one that is there. Subak's applier runs it, under the row's lock.

DELETE FROM subak.subak_version WHERE TableName = {{TableName}} AND RowId = {{RowId}};

INSERT INTO subak.subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage, ColumnStamps)
VALUES ({{TableName}}, {{RowId}}, {{Stamp}}, {{Origin}}, {{BaseStamp}}, {{BaseOrigin}}, {{Deleted}}, {{LastImage}}, {{ColumnStamps}});
