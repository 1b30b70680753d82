-- Part of cascaded_rows.sql: children that still refer to the row as it was. The cascade did not reach them (MySQL 9.7 leaves the children
-- of a row that REPLACE puts back): their notes are void.

DELETE FROM subak_cascaded
            WHERE
                SessionId = CONNECTION_ID() AND Parent = {{table_name}} AND TableName = {{child_name}}
                AND RowId IN (SELECT UNHEX(SHA2({{child_key}}, 256)) FROM {{children}} WHERE {{child_is_still_so}});
