-- After any INSERT, UPDATE, DELETE or MERGE on one of your tables: gives each row that changed a new version and writes one line into
-- CloudQuery for it; the BeforeImage of an insert is the last image of the deleted row in whose place it comes, if there was one. One
-- trigger for all three, since all of them come down to what a row was (deleted) and what it is (inserted).
--
-- For the DBA: it works on the whole statement at once and writes only to [subak].subak_version and [subak].CloudQuery, inside your
-- transaction. @@ROWCOUNT, @@IDENTITY and SCOPE_IDENTITY() are as without it. It is the first of the table's triggers where the server
-- lets that be said, and so sees the rows as the statement left them. An update that changes nothing writes nothing: compared is in
-- binary, so that from 'abc' to 'ABC' is a change, whatever the column's collation.
--
-- TRUNCATE TABLE fires no trigger, nor does BULK INSERT or bcp without FIRE_TRIGGERS: they reach no other outlet.
--
-- CONTEXT_INFO holds Subak's mark only in the sessions with which Subak itself applies changes from elsewhere: those are not captured again.

CREATE TRIGGER {{trigger}} ON {{table}} AFTER INSERT, UPDATE, DELETE AS
BEGIN
    SET NOCOUNT ON;
    -- Until the trigger ends, whatever your session has set: all rows of the statement are taken, and what is NULL stays NULL.
    SET ROWCOUNT 0;
    SET CONCAT_NULL_YIELDS_NULL ON;

    IF SUBSTRING(CONTEXT_INFO(), 1, 16) = {{mark}} RETURN;
    IF NOT EXISTS (SELECT 1 FROM inserted) AND NOT EXISTS (SELECT 1 FROM deleted) RETURN;

    DECLARE @now BIGINT = {{now}};
    DECLARE @transaction NVARCHAR(64) = {{transaction_name}};
    DECLARE @paired SMALLINT = 0;
    DECLARE @change TABLE (
        RowKey NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NOT NULL,
        RowId NVARCHAR(700) COLLATE Latin1_General_BIN2 NOT NULL,
        BeforeImage NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL,
        AfterImage NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL
    );

    -- Its columns are named one by one below. A column that was added, dropped or renamed since then makes the rows be taken as they
    -- are, until Subak has renewed the trigger, which takes it seconds: no statement of yours fails in the meantime. A name that is gone must
    -- still mean something, or the server would refuse the trigger as a whole: then it is the NULL of that name in `missing`.
    IF {{columns_differ}}
    BEGIN
        {{any_changes}}
    END
    ELSE
    BEGIN
        {{changes}}
    END;

    -- A changed primary key is the deletion of the old key and the insertion of the new one, paired when it is plain which belong together.
    IF
        EXISTS (SELECT 1 FROM inserted)
        AND (SELECT COUNT(*) FROM @change WHERE BeforeImage IS NULL) = 1
        AND (SELECT COUNT(*) FROM @change WHERE AfterImage IS NULL) = 1
        SET @paired = 1;

    UPDATE v
    SET
        BaseStamp = v.Stamp, BaseOrigin = v.Origin,
        Stamp = CASE WHEN @now > v.Stamp THEN @now ELSE v.Stamp + 1 END, Origin = {{outlet}},
        Deleted = CASE WHEN c.AfterImage IS NULL THEN 1 ELSE 0 END,
        LastImage = CASE
            WHEN c.AfterImage IS NULL THEN c.BeforeImage
            WHEN c.BeforeImage IS NULL AND v.Deleted = 1 THEN v.LastImage
        END
    FROM subak.subak_version AS v
    INNER JOIN @change AS c ON c.RowId = v.RowId
    WHERE v.TableName = {{table_name}};

    INSERT INTO subak.subak_version (TableName, RowId, Stamp, Origin, BaseStamp, BaseOrigin, Deleted, LastImage)
    SELECT
        {{table_name}}, c.RowId, @now, {{outlet}}, 0, N'', CASE WHEN c.AfterImage IS NULL THEN 1 ELSE 0 END,
        CASE WHEN c.AfterImage IS NULL THEN c.BeforeImage END
    FROM @change AS c
    WHERE NOT EXISTS (
        SELECT 1 FROM subak.subak_version AS v WITH (READCOMMITTEDLOCK)
        WHERE v.TableName = {{table_name}} AND v.RowId = c.RowId
    );

    -- First what went, then what came: a key or a unique value may have passed from one row to another.
    INSERT INTO subak.CloudQuery (
        TransactionId, SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin, Paired
    )
    SELECT
        @transaction, @@SPID, {{table_name}}, N'D', c.RowKey, c.BeforeImage, NULL, v.Stamp, v.BaseStamp, v.BaseOrigin, @paired
    FROM @change AS c
    INNER JOIN subak.subak_version AS v WITH (READCOMMITTEDLOCK) ON v.TableName = {{table_name}} AND v.RowId = c.RowId
    WHERE c.AfterImage IS NULL;

    INSERT INTO subak.CloudQuery (
        TransactionId, SessionId, TableName, Operation, RowKey, BeforeImage, AfterImage, Stamp, BaseStamp, BaseOrigin
    )
    SELECT
        @transaction, @@SPID, {{table_name}}, CASE WHEN c.BeforeImage IS NULL THEN N'I' ELSE N'U' END, c.RowKey,
        COALESCE(c.BeforeImage, v.LastImage), c.AfterImage, v.Stamp, v.BaseStamp, v.BaseOrigin
    FROM @change AS c
    INNER JOIN subak.subak_version AS v WITH (READCOMMITTEDLOCK) ON v.TableName = {{table_name}} AND v.RowId = c.RowId
    WHERE c.AfterImage IS NOT NULL;
END
