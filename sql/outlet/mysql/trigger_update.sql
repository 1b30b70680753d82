-- After an UPDATE that changes something: gives the row a new version and writes one line into CloudQuery. Compared is in binary:
-- from 'abc' to 'ABC' is a change, whatever the column's collation. A changed primary key is the deletion of the old key and the
-- insertion of the new one, paired, so that the other outlets can make it an UPDATE of the key again.
--
-- For the DBA: see trigger_insert.sql.

CREATE TRIGGER {{trigger}} AFTER UPDATE ON {{table}} FOR EACH ROW {{order}}
BEGIN
    DECLARE v_transaction VARCHAR(64);
    DECLARE v_now BIGINT;
    DECLARE v_key LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_old_key LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_id BINARY(32);
    DECLARE v_old_image LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_rekeyed TINYINT;
    DECLARE v_stamp BIGINT;
    DECLARE v_base_stamp BIGINT;
    DECLARE v_base_origin VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_buried LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    IF COALESCE(@subak_applier, 0) = 0 AND {{changed}}{{executed}} THEN
        SET v_now = {{now}};
        {{transaction_name}}
        {{cascaded_rows}}
        SET v_key = {{new_key}};
        SET v_old_key = {{old_key}};
        SET v_old_image = {{old_image}};
        -- As bytes: this collation would take 'a' and 'a ' for one key.
        SET v_rekeyed = CAST(v_key AS BINARY) <> CAST(v_old_key AS BINARY);

        IF v_rekeyed THEN
            SET v_id = UNHEX(SHA2(v_old_key, 256));

            INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage)
            VALUES ({{table_name}}, v_id, v_now, {{outlet}}, 0, '', 1, v_old_image)
            ON DUPLICATE KEY UPDATE
                BaseStamp = Stamp, BaseOrigin = Origin,
                Stamp = GREATEST(v_now, Stamp + 1), Origin = {{outlet}},
                Deleted = 1, LastImage = v_old_image;

            SELECT v.Stamp, v.BaseStamp, v.BaseOrigin INTO v_stamp, v_base_stamp, v_base_origin
            FROM subak_version AS v
            WHERE v.TableName = {{table_name}} AND v.RowId = v_id;

            INSERT INTO CloudQuery (
                TransactionId, SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage,
                Stamp, BaseStamp, BaseOrigin, Paired
            )
            VALUES (
                v_transaction, CONNECTION_ID(), {{table_name}}, 'D', v_old_key, v_old_image, NULL,
                v_stamp, v_base_stamp, v_base_origin, 1
            );
        END IF;

        SET v_id = UNHEX(SHA2(v_key, 256));

        INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted)
        VALUES ({{table_name}}, v_id, v_now, {{outlet}}, 0, '', 0)
        ON DUPLICATE KEY UPDATE
            BaseStamp = Stamp, BaseOrigin = Origin,
            Stamp = GREATEST(v_now, Stamp + 1), Origin = {{outlet}},
            LastImage = IF(v_rekeyed AND Deleted = 1, LastImage, NULL), Deleted = 0;

        SELECT v.Stamp, v.BaseStamp, v.BaseOrigin, v.LastImage INTO v_stamp, v_base_stamp, v_base_origin, v_buried
        FROM subak_version AS v
        WHERE v.TableName = {{table_name}} AND v.RowId = v_id;

        INSERT INTO CloudQuery (
            TransactionId, SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage,
            Stamp, BaseStamp, BaseOrigin
        )
        VALUES (
            v_transaction, CONNECTION_ID(), {{table_name}}, IF(v_rekeyed, 'I', 'U'), v_key,
            IF(v_rekeyed, v_buried, v_old_image), {{new_image}}, v_stamp, v_base_stamp, v_base_origin
        );
    END IF;
END
