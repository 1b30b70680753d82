-- Part of trigger_update.sql and trigger_delete.sql where the table has children with a cascading foreign key: what the cascade did.
-- A child that a trigger of the application has deleted meanwhile has a tombstone already.

IF {{children_may_follow}} AND EXISTS (
            SELECT 1 FROM subak_cascaded AS n WHERE n.SessionId = CONNECTION_ID() AND n.Parent = {{table_name}}
        ) THEN
            {{voids}}
            DELETE n FROM subak_cascaded AS n
            LEFT JOIN subak_version AS v ON v.TableName = n.TableName AND v.RowId = n.RowId
            WHERE
                n.SessionId = CONNECTION_ID() AND n.Parent = {{table_name}}
                AND (v.Deleted = 1 OR n.AfterImage <=> n.BeforeImage);

            INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage)
            SELECT
                n.TableName, n.RowId, v_now, {{outlet}}, 0, '', n.AfterImage IS NULL,
                IF(n.AfterImage IS NULL, n.BeforeImage, NULL)
            FROM subak_cascaded AS n
            WHERE n.SessionId = CONNECTION_ID() AND n.Parent = {{table_name}}
            ON DUPLICATE KEY UPDATE
                BaseStamp = subak_version.Stamp, BaseOrigin = subak_version.Origin,
                Stamp = GREATEST(v_now, subak_version.Stamp + 1), Origin = {{outlet}},
                Deleted = VALUES (Deleted), LastImage = VALUES (LastImage);

            INSERT INTO CloudQuery (
                TransactionId, SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
            )
            SELECT
                v_transaction, n.SessionId, n.TableName, IF(n.AfterImage IS NULL, 'D', 'U'), n.RowKey,
                n.BeforeImage, n.AfterImage, v.Stamp, v.BaseStamp, v.BaseOrigin
            FROM subak_cascaded AS n
            INNER JOIN subak_version AS v ON v.TableName = n.TableName AND v.RowId = n.RowId
            WHERE n.SessionId = CONNECTION_ID() AND n.Parent = {{table_name}};

            DELETE FROM subak_cascaded WHERE SessionId = CONNECTION_ID() AND Parent = {{table_name}};
        END IF;
