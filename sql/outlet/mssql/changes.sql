-- Part of the trigger: the rows that changed, as they were and as they are.

INSERT INTO @change (RowKey, RowId, BeforeImage, AfterImage)
        SELECT COALESCE(n.RowKey, o.RowKey), LEFT(COALESCE(n.RowKey, o.RowKey) + N'|', 700), o.Image, n.Image
        FROM (SELECT {{key}} COLLATE Latin1_General_BIN2 AS RowKey, {{image}} COLLATE Latin1_General_BIN2 AS Image FROM {{inserted_rows}}) AS n
        FULL OUTER JOIN (
            SELECT {{key}} COLLATE Latin1_General_BIN2 AS RowKey, {{image}} COLLATE Latin1_General_BIN2 AS Image FROM {{deleted_rows}}
        ) AS o ON n.RowKey + N'|' = o.RowKey + N'|'
        WHERE n.RowKey IS NULL OR o.RowKey IS NULL OR n.Image <> o.Image;
