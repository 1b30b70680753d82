-- After a DELETE: turns the row's version into a tombstone, which keeps the row's last image, and writes one line into CloudQuery.
--
-- For the DBA: see trigger_insert.sql. TRUNCATE TABLE fires no trigger: it reaches no other outlet.

CREATE TRIGGER {{trigger}} AFTER DELETE ON {{table}} FOR EACH ROW {{order}}
BEGIN
    DECLARE v_transaction VARCHAR(64);
    DECLARE v_now BIGINT;
    DECLARE v_key LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_id BINARY(32);
    DECLARE v_image LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_stamp BIGINT;
    DECLARE v_base_stamp BIGINT;
    DECLARE v_base_origin VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    IF COALESCE(@subak_applier, 0) = 0 THEN
        SET v_now = {{now}};
        {{transaction_name}}
        {{cascaded_rows}}
        SET v_key = {{old_key}};
        SET v_id = UNHEX(SHA2(v_key, 256));
        SET v_image = {{old_image}};

        INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage)
        VALUES ({{table_name}}, v_id, v_now, {{outlet}}, 0, '', 1, v_image)
        ON DUPLICATE KEY UPDATE
            BaseStamp = Stamp, BaseOrigin = Origin,
            Stamp = GREATEST(v_now, Stamp + 1), Origin = {{outlet}},
            Deleted = 1, LastImage = v_image;

        SELECT v.Stamp, v.BaseStamp, v.BaseOrigin INTO v_stamp, v_base_stamp, v_base_origin
        FROM subak_version AS v
        WHERE v.TableName = {{table_name}} AND v.RowId = v_id;

        INSERT INTO CloudQuery (
            TransactionId, SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
        )
        VALUES (
            v_transaction, CONNECTION_ID(), {{table_name}}, 'D', v_key, v_image, NULL,
            v_stamp, v_base_stamp, v_base_origin
        );
    END IF;
END
