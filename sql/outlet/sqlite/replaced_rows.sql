-- Part of trigger_insert.sql, trigger_update.sql and trigger_rekey.sql where the table has more than one unique index: the rows
-- that OR REPLACE deleted, from the notes that trigger_replacing.sql made.

-- Notes of rows that are still there, or whose deletion is known already, are void.
    DELETE FROM subak_replaced
    WHERE
        TableName = {{table_name}} AND Cause IN ({{causes}})
        AND (
            EXISTS (
                SELECT 1 FROM subak_version AS v
                WHERE v.TableName = {{table_name}} AND v.RowId = subak_replaced.RowKey AND v.Deleted = 1
            )
            OR {{note_is_of_itself}}
            OR (subak_replaced.RowKey <> {{new_key}} AND EXISTS (
                SELECT 1 FROM {{table}} AS r WHERE {{row_is_noted}} AND {{row_key}} = subak_replaced.RowKey
            ))
        );

    -- What is left in the notes was deleted: but for the row's own, which the change itself overwrote.
    UPDATE subak_version
    SET
        BaseStamp = Stamp, BaseOrigin = Origin,
        Stamp = max({{now}}, Stamp + 1), Origin = {{outlet}},
        Deleted = 1,
        LastImage = (
            SELECT n.Image FROM subak_replaced AS n
            WHERE n.TableName = {{table_name}} AND n.Cause IN ({{causes}}) AND n.RowKey = subak_version.RowId
        )
    WHERE
        TableName = {{table_name}} AND RowId IN (
            SELECT n.RowKey FROM subak_replaced AS n
            WHERE n.TableName = {{table_name}} AND n.Cause IN ({{causes}}) AND {{note_is_of_another}}
        );

    INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage)
    SELECT n.TableName, n.RowKey, {{now}}, {{outlet}}, 0, '', 1, min(n.Image)
    FROM subak_replaced AS n
    WHERE
        n.TableName = {{table_name}} AND n.Cause IN ({{causes}}) AND {{note_is_of_another}}
        AND NOT EXISTS (SELECT 1 FROM subak_version AS v WHERE v.TableName = n.TableName AND v.RowId = n.RowKey)
    GROUP BY n.TableName, n.RowKey;

    INSERT INTO CloudQuery (
        SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
    )
    SELECT 0, v.TableName, 'D', v.RowId, v.LastImage, NULL, v.Stamp, v.BaseStamp, v.BaseOrigin
    FROM subak_version AS v
    WHERE
        v.TableName = {{table_name}} AND v.RowId IN (
            SELECT n.RowKey FROM subak_replaced AS n
            WHERE n.TableName = {{table_name}} AND n.Cause IN ({{causes}}) AND {{note_is_of_another}}
        );

    DELETE FROM subak_replaced
    WHERE TableName = {{table_name}} AND Cause IN ({{causes}}) AND {{void_note}};
