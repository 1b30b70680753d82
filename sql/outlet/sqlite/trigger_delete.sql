-- After a DELETE: turns the row's version into a tombstone, which keeps the row's last image, and writes one line into
-- CloudQuery. Does nothing when a trigger of yours has already put the row back.
--
-- For the DBA: see trigger_insert.sql.

CREATE TRIGGER {{trigger}} AFTER DELETE ON {{table}}
WHEN NOT EXISTS (SELECT 1 FROM subak_mark)
BEGIN
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
        SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
    )
    SELECT 0, v.TableName, 'D', v.RowId, {{old_image}}, NULL, v.Stamp, v.BaseStamp, v.BaseOrigin
    FROM subak_version AS v
    WHERE v.TableName = {{table_name}} AND v.RowId = {{old_key}} AND NOT {{old_is_there}};
END
