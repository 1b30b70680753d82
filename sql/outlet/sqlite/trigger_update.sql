-- After an UPDATE that leaves the primary key as it was, and changes something: gives the row a new version and writes one
-- line into CloudQuery. Compared is in binary: from 'abc' to 'ABC' is a change, whatever the column's collation.
--
-- For the DBA: see trigger_insert.sql.

CREATE TRIGGER {{trigger}} AFTER UPDATE ON {{table}}
WHEN NOT EXISTS (SELECT 1 FROM subak_mark) AND {{new_key}} = {{old_key}} AND {{changed}}
BEGIN
    {{replaced_rows}}
    UPDATE subak_version
    SET
        BaseStamp = Stamp, BaseOrigin = Origin,
        Stamp = max({{now}}, Stamp + 1), Origin = {{outlet}},
        Deleted = 0, LastImage = NULL
    WHERE TableName = {{table_name}} AND RowId = {{new_key}} AND {{new_is_there}};

    INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted)
    SELECT {{table_name}}, {{new_key}}, {{now}}, {{outlet}}, 0, '', 0
    WHERE
        {{new_is_there}}
        AND NOT EXISTS (SELECT 1 FROM subak_version AS v WHERE v.TableName = {{table_name}} AND v.RowId = {{new_key}});

    INSERT INTO CloudQuery (
        SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
    )
    SELECT 0, v.TableName, 'U', v.RowId, {{old_image}}, {{row_image}}, v.Stamp, v.BaseStamp, v.BaseOrigin
    FROM {{table}} AS r
    INNER JOIN subak_version AS v ON v.TableName = {{table_name}} AND v.RowId = {{new_key}}
    WHERE {{row_is_new}};
END
