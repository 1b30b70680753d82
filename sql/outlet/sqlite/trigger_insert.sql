-- After an INSERT into one of your tables: gives the row a new version and writes one line into CloudQuery. Its BeforeImage is the last
-- image of the deleted row in whose place it comes, if there was one.
--
-- For the DBA: it writes only to subak_version, CloudQuery and subak_replaced, inside your transaction. last_insert_rowid() and
-- changes() are as without it (total_changes() is not). There is no upsert in it, because the OR IGNORE or OR REPLACE of your
-- statement would override its conflict clause. The row is read again by its key, for a trigger of yours may have changed
-- or deleted it. An INSERT OR REPLACE over a row of the same key is an update of that row.
--
-- The subak_mark is there only while Subak itself applies a change from elsewhere: that is not captured again.

CREATE TRIGGER {{trigger}} AFTER INSERT ON {{table}}
WHEN NOT EXISTS (SELECT 1 FROM subak_mark)
BEGIN
    {{null_key}}{{replaced_rows}}
    DELETE FROM subak_replaced
    WHERE
        TableName = {{table_name}} AND Cause = {{key_cause}}
        AND EXISTS (
            SELECT 1 FROM subak_version AS v
            WHERE v.TableName = {{table_name}} AND v.RowId = {{new_key}} AND v.Deleted = 1
        );

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
    SELECT
        0, c.TableName, CASE WHEN c.Image IS NULL THEN 'I' ELSE 'U' END, c.RowId,
        coalesce(c.Image, c.Buried), c.AfterImage, c.Stamp, c.BaseStamp, c.BaseOrigin
    FROM (
        SELECT
            v.TableName, v.RowId, v.Stamp, v.BaseStamp, v.BaseOrigin, v.LastImage AS Buried,
            {{row_image}} AS AfterImage,
            (
                SELECT min(n.Image) FROM subak_replaced AS n
                WHERE n.TableName = v.TableName AND n.Cause IN ({{causes}}) AND n.RowKey = v.RowId
            ) AS Image
        FROM {{table}} AS r
        INNER JOIN subak_version AS v ON v.TableName = {{table_name}} AND v.RowId = {{new_key}}
        WHERE {{row_is_new}}
    ) AS c;

    DELETE FROM subak_replaced WHERE TableName = {{table_name}} AND Cause IN ({{causes}});
END
