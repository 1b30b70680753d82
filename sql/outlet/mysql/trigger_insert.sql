-- After an INSERT into one of your tables: gives the row a new version and writes one line into CloudQuery. Its BeforeImage is the last
-- image of the deleted row in whose place it comes, if there was one.
--
-- For the DBA: it writes only to subak_version and CloudQuery, inside your transaction. LAST_INSERT_ID() and ROW_COUNT() are as
-- without it. subak_version has a primary key and no other index: the upsert locks one record and no gap, and reads what is
-- committed rather than your transaction's snapshot. It runs before your own AFTER triggers.
--
-- @subak_applier is set only in the connections with which Subak itself applies changes from elsewhere: they are not captured again.
-- It is compared with 0, not with NULL: MySQL (9.7 at least) keeps an open table's trigger as another session resolved it, and a variable that was
-- a number there reads as 0, and not as NULL, in a session that never set it.

CREATE TRIGGER {{trigger}} AFTER INSERT ON {{table}} FOR EACH ROW {{order}}
BEGIN
    DECLARE v_transaction VARCHAR(64);
    DECLARE v_now BIGINT;
    DECLARE v_key LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_id BINARY(32);
    DECLARE v_stamp BIGINT;
    DECLARE v_base_stamp BIGINT;
    DECLARE v_base_origin VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_buried LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    IF COALESCE(@subak_applier, 0) = 0 THEN
        SET v_now = {{now}};
        {{transaction_name}}
        SET v_key = {{new_key}};
        SET v_id = UNHEX(SHA2(v_key, 256));

        INSERT INTO subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted)
        VALUES ({{table_name}}, v_id, v_now, {{outlet}}, 0, '', 0)
        ON DUPLICATE KEY UPDATE
            BaseStamp = Stamp, BaseOrigin = Origin,
            Stamp = GREATEST(v_now, Stamp + 1), Origin = {{outlet}},
            LastImage = IF(Deleted = 1, LastImage, NULL), Deleted = 0;

        SELECT v.Stamp, v.BaseStamp, v.BaseOrigin, v.LastImage INTO v_stamp, v_base_stamp, v_base_origin, v_buried
        FROM subak_version AS v
        WHERE v.TableName = {{table_name}} AND v.RowId = v_id;

        INSERT INTO CloudQuery (
            TransactionId, SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
        )
        VALUES (
            v_transaction, CONNECTION_ID(), {{table_name}}, 'I', v_key, v_buried, {{new_image}},
            v_stamp, v_base_stamp, v_base_origin
        );
    END IF;
END
