-- After an UPDATE that changes the primary key: the deletion of the old key and the insertion of the new one, paired, so that
-- the other outlets can make it an UPDATE of the key again.
--
-- For the DBA: see trigger_insert.sql.

CREATE TRIGGER {{trigger}} AFTER UPDATE ON {{table}}
WHEN NOT EXISTS (SELECT 1 FROM subak_mark) AND {{new_key}} IS NOT {{old_key}}
BEGIN
    {{null_key}}{{replaced_rows}}
    UPDATE subak_version
    SET
        BaseStamp = Stamp, BaseOrigin = Origin,
        Stamp = max({{now}}, Stamp + 1), Origin = {{outlet}},
        Deleted = 1, LastImage = {{old_image}}
    WHERE TableName = {{table_name}} AND RowId = {{old_key}} AND NOT {{old_is_there}};

    INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage)
    SELECT {{table_name}}, {{old_key}}, {{now}}, {{outlet}}, 0, '', 1, {{old_image}}
    WHERE
        NOT {{old_is_there}}
        AND NOT EXISTS (SELECT 1 FROM subak_version AS v WHERE v.TableName = {{table_name}} AND v.RowId = {{old_key}});

    INSERT INTO CloudQuery (
        SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin, Paired
    )
    SELECT
        0, v.TableName, 'D', v.RowId, {{old_image}}, NULL, v.Stamp, v.BaseStamp, v.BaseOrigin, {{new_is_there}}
    FROM subak_version AS v
    WHERE v.TableName = {{table_name}} AND v.RowId = {{old_key}} AND NOT {{old_is_there}};

    UPDATE subak_version
    SET
        BaseStamp = Stamp, BaseOrigin = Origin,
        Stamp = max({{now}}, Stamp + 1), Origin = {{outlet}},
        Deleted = 0, LastImage = CASE WHEN Deleted = 1 THEN LastImage END
    WHERE TableName = {{table_name}} AND RowId = {{new_key}} AND {{new_is_there}};

    INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted)
    SELECT {{table_name}}, {{new_key}}, {{now}}, {{outlet}}, 0, '', 0
    WHERE
        {{new_is_there}}
        AND NOT EXISTS (SELECT 1 FROM subak_version AS v WHERE v.TableName = {{table_name}} AND v.RowId = {{new_key}});

    INSERT INTO CloudQuery (
        SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
    )
    SELECT 0, v.TableName, 'I', v.RowId, v.LastImage, {{row_image}}, v.Stamp, v.BaseStamp, v.BaseOrigin
    FROM {{table}} AS r
    INNER JOIN subak_version AS v ON v.TableName = {{table_name}} AND v.RowId = {{new_key}}
    WHERE {{row_is_new}};
END
