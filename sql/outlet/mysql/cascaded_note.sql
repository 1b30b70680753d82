-- Part of trigger_cascading.sql: the rows of one child. A row that is deleted already is not also changed.

INSERT INTO subak_cascaded (SessionId, Parent, TableName, RowId, RowKey, BeforeImage, AfterImage)
        SELECT
            CONNECTION_ID(), {{table_name}}, {{child_name}}, UNHEX(SHA2({{child_key}}, 256)), {{child_key}},
            {{child_image}},
            {{child_after}}
        FROM {{children}}
        WHERE {{child_is_hit}}
        LOCK IN SHARE MODE
        ON DUPLICATE KEY UPDATE SessionId = subak_cascaded.SessionId;
