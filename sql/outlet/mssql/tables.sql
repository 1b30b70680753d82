-- Subak's own tables in an outlet's database: SQL Server 2017 and later, Azure SQL Database. Schema version 2.
--
-- For the DBA: all of them are in a schema of their own, [subak]; nothing of yours is altered. It belongs to dbo, so that the
-- triggers on dbo's tables may write there whoever fires them (an unbroken ownership chain): your application's logins need no
-- rights on it. `CloudQuery` and `subak_version` are written by the triggers inside your application's transactions; all others
-- only by Subak's two services. Dropping the tables, the sequences and the schema (after `subak triggers remove`) leaves your
-- database as it was.
--
-- Numbers come from sequences: an IDENTITY would change what @@IDENTITY tells your application. There is no filtered index, no
-- indexed view and no computed column, which would fail the writes of sessions with old SET options. Locks are not escalated.
-- Names are compared byte by byte (Latin1_General_BIN2). Times are microseconds since 1970, UTC.

-- Two of Subak's services may start at the same moment: in a transaction the second one waits for the first one's commit.
IF @@TRANCOUNT > 0
    EXEC sp_getapplock @Resource = 'subak.tables', @LockMode = 'Exclusive', @LockOwner = 'Transaction', @LockTimeout = 20000;

IF SCHEMA_ID('subak') IS NULL
    EXEC ('CREATE SCHEMA subak AUTHORIZATION dbo');

-- What Subak knows of this database: one row per fact.
IF OBJECT_ID('subak.subak_state') IS NULL
    CREATE TABLE subak.subak_state (
        Name NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL PRIMARY KEY,
        Value NVARCHAR(255) COLLATE Latin1_General_BIN2 NOT NULL
    );

-- Numbers of CloudQuery. No cache is asked for: ids must grow in the order in which they are taken.
IF OBJECT_ID('subak.subak_change_id') IS NULL
    CREATE SEQUENCE subak.subak_change_id AS BIGINT START WITH 1 INCREMENT BY 1;

-- Every row change of the application, in the order the triggers saw them (which is not the order of commits).
-- ExportFlag 0: not yet confirmed by the hub. BatchNumber: the batch the change was put in, once it has been.
IF OBJECT_ID('subak.CloudQuery') IS NULL
    CREATE TABLE subak.CloudQuery (
        Id BIGINT NOT NULL DEFAULT (NEXT VALUE FOR subak.subak_change_id) PRIMARY KEY,
        TransactionId NVARCHAR(64) COLLATE Latin1_General_BIN2 NULL,
        SessionId BIGINT NOT NULL,
        TableName NVARCHAR(150) COLLATE Latin1_General_BIN2 NOT NULL,
        Operation NCHAR(1) COLLATE Latin1_General_BIN2 NOT NULL,
        RowKey NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NOT NULL,
        BeforeImage NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL,
        AfterImage NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL,
        Stamp BIGINT NOT NULL,
        BaseStamp BIGINT NOT NULL,
        BaseOrigin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        Paired SMALLINT NOT NULL DEFAULT 0,
        BatchNumber BIGINT NULL,
        ExportFlag SMALLINT NOT NULL DEFAULT 0,
        CONSTRAINT CloudQueryComplete CHECK (
            (Operation = 'I' OR BeforeImage IS NOT NULL) AND (Operation = 'D' OR AfterImage IS NOT NULL)
        ),
        CONSTRAINT CloudQueryWaiting UNIQUE NONCLUSTERED (ExportFlag, BatchNumber, Id),
        CONSTRAINT CloudQueryStamp UNIQUE NONCLUSTERED (Stamp, Id)
    );

-- The last change that won each row, be it local or from elsewhere.
-- RowId is the row key with a bar behind it, so that no two are equal but for trailing blanks; at most 700 characters, since all
-- columns of a key together may have 1,700 bytes: Subak refuses tables whose keys or names are longer. A deleted row's version (a tombstone)
-- keeps its last image. The primary key is the only index; it is not clustered, for then it might have only 900 bytes.
-- ColumnStamps, where a conflict rule needs it: when each column was written last, as JSON.
IF OBJECT_ID('subak.subak_version') IS NULL
    CREATE TABLE subak.subak_version (
        TableName NVARCHAR(150) COLLATE Latin1_General_BIN2 NOT NULL,
        RowId NVARCHAR(700) COLLATE Latin1_General_BIN2 NOT NULL,
        Stamp BIGINT NOT NULL,
        Origin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        BaseStamp BIGINT NOT NULL,
        BaseOrigin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        Deleted SMALLINT NOT NULL DEFAULT 0,
        LastImage NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL,
        ColumnStamps NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL,
        PRIMARY KEY NONCLUSTERED (TableName, RowId)
    );

-- The conflict rules as the hub gave them out, one row per generation. Boundary: the greatest Id of CloudQuery when they came; changes with a
-- greater one are made under these rules, or newer ones.
IF OBJECT_ID('subak.subak_policy') IS NULL
    CREATE TABLE subak.subak_policy (
        Generation BIGINT NOT NULL PRIMARY KEY,
        Rules NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NOT NULL,
        Boundary BIGINT NOT NULL,
        AppliedAt BIGINT NOT NULL
    );

-- Batches that capture has cut: which changes make one up is fixed here, before it is sent.
IF OBJECT_ID('subak.subak_batch') IS NULL
    CREATE TABLE subak.subak_batch (
        Epoch NVARCHAR(32) COLLATE Latin1_General_BIN2 NOT NULL,
        Number BIGINT NOT NULL,
        Previous VARBINARY(32) NOT NULL,
        Digest VARBINARY(32) NOT NULL,
        Changes INT NOT NULL,
        Transactions INT NOT NULL,
        Bytes BIGINT NOT NULL,
        CutAt BIGINT NOT NULL,
        StoredAt BIGINT NULL,
        PRIMARY KEY (Epoch, Number)
    );

-- The bytes of those batches, in parts.
IF OBJECT_ID('subak.subak_batch_part') IS NULL
    CREATE TABLE subak.subak_batch_part (
        Epoch NVARCHAR(32) COLLATE Latin1_General_BIN2 NOT NULL,
        Number BIGINT NOT NULL,
        Part INT NOT NULL,
        Body VARBINARY(MAX) NOT NULL,
        PRIMARY KEY (Epoch, Number, Part)
    );

-- What has been applied here: one row per batch of another outlet, written in the same transaction as its rows.
-- Sequence is the hub's number of the batch.
IF OBJECT_ID('subak.subak_ledger') IS NULL
    CREATE TABLE subak.subak_ledger (
        Sequence BIGINT NOT NULL PRIMARY KEY,
        Origin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        Epoch NVARCHAR(32) COLLATE Latin1_General_BIN2 NOT NULL,
        Number BIGINT NOT NULL,
        Digest VARBINARY(32) NOT NULL,
        Changes INT NOT NULL,
        Quarantined INT NOT NULL,
        AppliedAt BIGINT NOT NULL,
        CONSTRAINT LedgerBatch UNIQUE (Origin, Epoch, Number)
    );

-- The bytes of those batches, in parts: for the query log, and for what is quarantined.
IF OBJECT_ID('subak.subak_ledger_part') IS NULL
    CREATE TABLE subak.subak_ledger_part (
        Sequence BIGINT NOT NULL,
        Part INT NOT NULL,
        Body VARBINARY(MAX) NOT NULL,
        PRIMARY KEY (Sequence, Part)
    );

-- Numbers of conflicts and of quarantines.
IF OBJECT_ID('subak.subak_conflict_id') IS NULL
    CREATE SEQUENCE subak.subak_conflict_id AS BIGINT START WITH 1 INCREMENT BY 1;

IF OBJECT_ID('subak.subak_quarantine_id') IS NULL
    CREATE SEQUENCE subak.subak_quarantine_id AS BIGINT START WITH 1 INCREMENT BY 1;

-- Two changes to one row, neither of which knew the other: both sides, the rule, and who won.
IF OBJECT_ID('subak.subak_conflict') IS NULL
    CREATE TABLE subak.subak_conflict (
        Id BIGINT NOT NULL DEFAULT (NEXT VALUE FOR subak.subak_conflict_id) PRIMARY KEY,
        Sequence BIGINT NOT NULL,
        TableName NVARCHAR(150) COLLATE Latin1_General_BIN2 NOT NULL,
        RowKey NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NOT NULL,
        [Rule] NVARCHAR(32) COLLATE Latin1_General_BIN2 NOT NULL,
        Winner NVARCHAR(16) COLLATE Latin1_General_BIN2 NOT NULL,
        LocalStamp BIGINT NOT NULL,
        LocalOrigin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        LocalImage NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL,
        IncomingStamp BIGINT NOT NULL,
        IncomingOrigin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        IncomingImage NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NULL,
        DecidedAt BIGINT NOT NULL
    );

-- Transactions that cannot be applied here, whole, with the reason. State: waiting, applied, discarded.
-- The changes themselves are the transaction at Position (from 0) of the batch that `subak_ledger_part` holds.
IF OBJECT_ID('subak.subak_quarantine') IS NULL
    CREATE TABLE subak.subak_quarantine (
        Id BIGINT NOT NULL DEFAULT (NEXT VALUE FOR subak.subak_quarantine_id) PRIMARY KEY,
        Sequence BIGINT NOT NULL,
        Position INT NOT NULL,
        Origin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        Code NVARCHAR(32) COLLATE Latin1_General_BIN2 NOT NULL,
        Reason NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NOT NULL,
        State NVARCHAR(16) COLLATE Latin1_General_BIN2 NOT NULL,
        Attempts INT NOT NULL,
        QuarantinedAt BIGINT NOT NULL,
        DecidedAt BIGINT NULL,
        CONSTRAINT QuarantineState UNIQUE NONCLUSTERED (State, Id)
    );

-- The rows that each quarantined transaction would have changed: what differs from the other outlets, by key.
IF OBJECT_ID('subak.subak_quarantine_row') IS NULL
    CREATE TABLE subak.subak_quarantine_row (
        QuarantineId BIGINT NOT NULL,
        Position INT NOT NULL,
        TableName NVARCHAR(150) COLLATE Latin1_General_BIN2 NOT NULL,
        RowId NVARCHAR(700) COLLATE Latin1_General_BIN2 NOT NULL,
        RowKey NVARCHAR(MAX) COLLATE Latin1_General_BIN2 NOT NULL,
        Stamp BIGINT NOT NULL,
        Origin NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL,
        PRIMARY KEY (QuarantineId, Position),
        CONSTRAINT QuarantineRowKey UNIQUE NONCLUSTERED (TableName, RowId, QuarantineId, Position)
    );
