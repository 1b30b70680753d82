-- Subak's own tables in an outlet's database: MySQL 8.0+, MariaDB 10.6+. Schema version 2.
--
-- For the DBA: all of them are new tables; nothing of yours is altered. `CloudQuery` and `subak_version` are written by the
-- triggers inside your application's transactions; all others only by Subak's two services. Dropping them (after
-- `subak triggers remove`) leaves your database as it was.
--
-- Names are compared byte by byte (utf8mb4_bin), whatever the collation of your tables. Times are microseconds since 1970, UTC.

-- What Subak knows of this database: one row per fact.
CREATE TABLE IF NOT EXISTS subak_state (
    Name VARCHAR(64) NOT NULL PRIMARY KEY,
    Value VARCHAR(255) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Every row change of the application, in the order the triggers saw them (which is not the order of commits).
-- ExportFlag 0: not yet confirmed by the hub. BatchNumber: the batch the change was put in, once it has been.
CREATE TABLE IF NOT EXISTS CloudQuery (
    Id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    TransactionId VARCHAR(64),
    SessionId BIGINT UNSIGNED NOT NULL,
    TableName VARCHAR(64) NOT NULL,
    Operation CHAR(1) NOT NULL,
    RowKey LONGTEXT NOT NULL,
    BeforeImage LONGTEXT,
    AfterImage LONGTEXT,
    Stamp BIGINT NOT NULL,
    BaseStamp BIGINT NOT NULL,
    BaseOrigin VARCHAR(64) NOT NULL,
    Paired TINYINT NOT NULL DEFAULT 0,
    BatchNumber BIGINT UNSIGNED,
    ExportFlag TINYINT NOT NULL DEFAULT 0,
    INDEX CloudQueryWaiting (ExportFlag, BatchNumber, Id),
    INDEX CloudQueryStamp (Stamp),
    -- An image that did not fit into max_allowed_packet is NULL: then the application's statement fails, rather than Subak losing the change.
    CONSTRAINT CloudQueryComplete CHECK (
        (Operation = 'I' OR BeforeImage IS NOT NULL) AND (Operation = 'D' OR AfterImage IS NOT NULL)
    )
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The last change that won each row, be it local or from elsewhere. The primary key is the only index: its upsert locks one record and no gap.
-- RowId is the SHA-256 of the row key. A deleted row's version (a tombstone) keeps its last image.
-- ColumnStamps, where a conflict rule needs it: when each column was written last, as JSON.
CREATE TABLE IF NOT EXISTS subak_version (
    TableName VARCHAR(64) NOT NULL,
    RowId BINARY(32) NOT NULL,
    Stamp BIGINT NOT NULL,
    Origin VARCHAR(64) NOT NULL,
    BaseStamp BIGINT NOT NULL,
    BaseOrigin VARCHAR(64) NOT NULL,
    Deleted TINYINT NOT NULL DEFAULT 0,
    LastImage LONGTEXT,
    ColumnStamps LONGTEXT,
    PRIMARY KEY (TableName, RowId)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The conflict rules as the hub gave them out, one row per generation. Boundary: the greatest Id of CloudQuery when they came; changes with a
-- greater one are made under these rules, or newer ones.
CREATE TABLE IF NOT EXISTS subak_policy (
    Generation BIGINT NOT NULL PRIMARY KEY,
    Rules LONGTEXT NOT NULL,
    Boundary BIGINT UNSIGNED NOT NULL,
    AppliedAt BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Batches that capture has cut: which changes make one up is fixed here, before it is sent.
CREATE TABLE IF NOT EXISTS subak_batch (
    Epoch VARCHAR(32) NOT NULL,
    Number BIGINT UNSIGNED NOT NULL,
    Previous BINARY(32) NOT NULL,
    Digest BINARY(32) NOT NULL,
    Changes INT UNSIGNED NOT NULL,
    Transactions INT UNSIGNED NOT NULL,
    Bytes BIGINT UNSIGNED NOT NULL,
    CutAt BIGINT NOT NULL,
    StoredAt BIGINT,
    PRIMARY KEY (Epoch, Number)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The bytes of those batches, in parts that fit into one packet.
CREATE TABLE IF NOT EXISTS subak_batch_part (
    Epoch VARCHAR(32) NOT NULL,
    Number BIGINT UNSIGNED NOT NULL,
    Part INT UNSIGNED NOT NULL,
    Body LONGBLOB NOT NULL,
    PRIMARY KEY (Epoch, Number, Part)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- What has been applied here: one row per batch of another outlet, written in the same transaction as its rows.
-- Sequence is the hub's number of the batch.
CREATE TABLE IF NOT EXISTS subak_ledger (
    Sequence BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    Origin VARCHAR(64) NOT NULL,
    Epoch VARCHAR(32) NOT NULL,
    Number BIGINT UNSIGNED NOT NULL,
    Digest BINARY(32) NOT NULL,
    Changes INT UNSIGNED NOT NULL,
    Quarantined INT UNSIGNED NOT NULL,
    AppliedAt BIGINT NOT NULL,
    UNIQUE INDEX LedgerBatch (Origin, Epoch, Number)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The bytes of those batches, in parts that fit into one packet: for the query log, and for what is quarantined.
CREATE TABLE IF NOT EXISTS subak_ledger_part (
    Sequence BIGINT UNSIGNED NOT NULL,
    Part INT UNSIGNED NOT NULL,
    Body LONGBLOB NOT NULL,
    PRIMARY KEY (Sequence, Part)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Two changes to one row, neither of which knew the other: both sides, the rule, and who won.
CREATE TABLE IF NOT EXISTS subak_conflict (
    Id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    Sequence BIGINT UNSIGNED NOT NULL,
    TableName VARCHAR(64) NOT NULL,
    RowKey LONGTEXT NOT NULL,
    Rule VARCHAR(32) NOT NULL,
    Winner VARCHAR(16) NOT NULL,
    LocalStamp BIGINT NOT NULL,
    LocalOrigin VARCHAR(64) NOT NULL,
    LocalImage LONGTEXT,
    IncomingStamp BIGINT NOT NULL,
    IncomingOrigin VARCHAR(64) NOT NULL,
    IncomingImage LONGTEXT,
    DecidedAt BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Transactions that cannot be applied here, whole, with the reason. State: waiting, applied, discarded.
-- The changes themselves are the transaction at Position (from 0) of the batch that `subak_ledger_part` holds.
CREATE TABLE IF NOT EXISTS subak_quarantine (
    Id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    Sequence BIGINT UNSIGNED NOT NULL,
    Position INT UNSIGNED NOT NULL,
    Origin VARCHAR(64) NOT NULL,
    Code VARCHAR(32) NOT NULL,
    Reason LONGTEXT NOT NULL,
    State VARCHAR(16) NOT NULL,
    Attempts INT UNSIGNED NOT NULL,
    QuarantinedAt BIGINT NOT NULL,
    DecidedAt BIGINT,
    INDEX QuarantineState (State, Id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The rows that each quarantined transaction would have changed: what differs from the other outlets, by key.
CREATE TABLE IF NOT EXISTS subak_quarantine_row (
    QuarantineId BIGINT UNSIGNED NOT NULL,
    Position INT UNSIGNED NOT NULL,
    TableName VARCHAR(64) NOT NULL,
    RowId BINARY(32) NOT NULL,
    RowKey LONGTEXT NOT NULL,
    Stamp BIGINT NOT NULL,
    Origin VARCHAR(64) NOT NULL,
    PRIMARY KEY (QuarantineId, Position),
    INDEX QuarantineRowKey (TableName, RowId)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Notes of the triggers, for one row of a statement: the children that a cascading foreign key is about to delete (AfterImage is NULL) or
-- change, which fires no trigger of theirs. Between two statements the notes mean nothing and may be deleted.
CREATE TABLE IF NOT EXISTS subak_cascaded (
    SessionId BIGINT UNSIGNED NOT NULL,
    Parent VARCHAR(64) NOT NULL,
    TableName VARCHAR(64) NOT NULL,
    RowId BINARY(32) NOT NULL,
    RowKey LONGTEXT NOT NULL,
    BeforeImage LONGTEXT NOT NULL,
    AfterImage LONGTEXT,
    PRIMARY KEY (SessionId, Parent, TableName, RowId)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
