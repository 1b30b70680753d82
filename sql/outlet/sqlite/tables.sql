-- Subak's own tables in an outlet's database: SQLite 3.38+. Schema version 2.
--
-- For the DBA: all of them are new tables; nothing of yours is altered. `CloudQuery` and `subak_version` are written by the
-- triggers inside your application's transactions; all others only by Subak's two services. Dropping them (after
-- `subak triggers remove`) leaves your database as it was.
--
-- Times are microseconds since 1970, UTC.

-- What Subak knows of this database: one row per fact.
CREATE TABLE IF NOT EXISTS subak_state (
    Name TEXT NOT NULL PRIMARY KEY,
    Value TEXT NOT NULL
);

-- Every row change of the application, in the order the triggers saw them (which is not the order of commits).
-- ExportFlag 0: not yet confirmed by the hub. BatchNumber: the batch the change was put in, once it has been.
CREATE TABLE IF NOT EXISTS CloudQuery (
    Id INTEGER PRIMARY KEY AUTOINCREMENT,
    TransactionId TEXT,
    SessionId INTEGER NOT NULL,
    TableName TEXT NOT NULL,
    Operation TEXT NOT NULL,
    RowKey TEXT NOT NULL,
    BeforeImage TEXT,
    AfterImage TEXT,
    Stamp INTEGER NOT NULL,
    BaseStamp INTEGER NOT NULL,
    BaseOrigin TEXT NOT NULL,
    Paired INTEGER NOT NULL DEFAULT 0,
    BatchNumber INTEGER,
    ExportFlag INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT CloudQueryComplete CHECK (
        (Operation = 'I' OR BeforeImage IS NOT NULL) AND (Operation = 'D' OR AfterImage IS NOT NULL)
    )
);
CREATE INDEX IF NOT EXISTS CloudQueryWaiting ON CloudQuery (ExportFlag, BatchNumber, Id);
CREATE INDEX IF NOT EXISTS CloudQueryStamp ON CloudQuery (Stamp);

-- The last change that won each row, be it local or from elsewhere.
-- RowId is the row key itself. A deleted row's version (a tombstone) keeps its last image.
-- ColumnStamps, where a conflict rule needs it: when each column was written last, as JSON.
CREATE TABLE IF NOT EXISTS subak_version (
    TableName TEXT NOT NULL,
    RowId TEXT NOT NULL,
    Stamp INTEGER NOT NULL,
    Origin TEXT NOT NULL,
    BaseStamp INTEGER NOT NULL,
    BaseOrigin TEXT NOT NULL,
    Deleted INTEGER NOT NULL DEFAULT 0,
    LastImage TEXT,
    ColumnStamps TEXT,
    PRIMARY KEY (TableName, RowId)
) WITHOUT ROWID;

-- The conflict rules as the hub gave them out, one row per generation. Boundary: the greatest Id of CloudQuery when they came; changes with a
-- greater one are made under these rules, or newer ones.
CREATE TABLE IF NOT EXISTS subak_policy (
    Generation INTEGER NOT NULL PRIMARY KEY,
    Rules TEXT NOT NULL,
    Boundary INTEGER NOT NULL,
    AppliedAt INTEGER NOT NULL
);

-- Batches that capture has cut: which changes make one up is fixed here, before it is sent.
CREATE TABLE IF NOT EXISTS subak_batch (
    Epoch TEXT NOT NULL,
    Number INTEGER NOT NULL,
    Previous BLOB NOT NULL,
    Digest BLOB NOT NULL,
    Changes INTEGER NOT NULL,
    Transactions INTEGER NOT NULL,
    Bytes INTEGER NOT NULL,
    CutAt INTEGER NOT NULL,
    StoredAt INTEGER,
    PRIMARY KEY (Epoch, Number)
);

-- The bytes of those batches, in parts.
CREATE TABLE IF NOT EXISTS subak_batch_part (
    Epoch TEXT NOT NULL,
    Number INTEGER NOT NULL,
    Part INTEGER NOT NULL,
    Body BLOB NOT NULL,
    PRIMARY KEY (Epoch, Number, Part)
);

-- What has been applied here: one row per batch of another outlet, written in the same transaction as its rows.
-- Sequence is the hub's number of the batch.
CREATE TABLE IF NOT EXISTS subak_ledger (
    Sequence INTEGER PRIMARY KEY,
    Origin TEXT NOT NULL,
    Epoch TEXT NOT NULL,
    Number INTEGER NOT NULL,
    Digest BLOB NOT NULL,
    Changes INTEGER NOT NULL,
    Quarantined INTEGER NOT NULL,
    AppliedAt INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS LedgerBatch ON subak_ledger (Origin, Epoch, Number);

-- The bytes of those batches, in parts: for the query log, and for what is quarantined.
CREATE TABLE IF NOT EXISTS subak_ledger_part (
    Sequence INTEGER NOT NULL,
    Part INTEGER NOT NULL,
    Body BLOB NOT NULL,
    PRIMARY KEY (Sequence, Part)
);

-- Two changes to one row, neither of which knew the other: both sides, the rule, and who won.
CREATE TABLE IF NOT EXISTS subak_conflict (
    Id INTEGER PRIMARY KEY AUTOINCREMENT,
    Sequence INTEGER NOT NULL,
    TableName TEXT NOT NULL,
    RowKey TEXT NOT NULL,
    Rule TEXT NOT NULL,
    Winner TEXT NOT NULL,
    LocalStamp INTEGER NOT NULL,
    LocalOrigin TEXT NOT NULL,
    LocalImage TEXT,
    IncomingStamp INTEGER NOT NULL,
    IncomingOrigin TEXT NOT NULL,
    IncomingImage TEXT,
    DecidedAt INTEGER NOT NULL
);

-- Transactions that cannot be applied here, whole, with the reason. State: waiting, applied, discarded.
-- The changes themselves are the transaction at Position (from 0) of the batch that `subak_ledger_part` holds.
CREATE TABLE IF NOT EXISTS subak_quarantine (
    Id INTEGER PRIMARY KEY AUTOINCREMENT,
    Sequence INTEGER NOT NULL,
    Position INTEGER NOT NULL,
    Origin TEXT NOT NULL,
    Code TEXT NOT NULL,
    Reason TEXT NOT NULL,
    State TEXT NOT NULL,
    Attempts INTEGER NOT NULL,
    QuarantinedAt INTEGER NOT NULL,
    DecidedAt INTEGER
);
CREATE INDEX IF NOT EXISTS QuarantineState ON subak_quarantine (State, Id);

-- The rows that each quarantined transaction would have changed: what differs from the other outlets, by key.
CREATE TABLE IF NOT EXISTS subak_quarantine_row (
    QuarantineId INTEGER NOT NULL,
    Position INTEGER NOT NULL,
    TableName TEXT NOT NULL,
    RowId TEXT NOT NULL,
    RowKey TEXT NOT NULL,
    Stamp INTEGER NOT NULL,
    Origin TEXT NOT NULL,
    PRIMARY KEY (QuarantineId, Position)
);
CREATE INDEX IF NOT EXISTS QuarantineRowKey ON subak_quarantine_row (TableName, RowId);

-- Holds a row only inside a transaction of Subak's applier: the triggers do nothing while it is there. SQLite has one writer at
-- a time, so no other connection ever sees that row.
CREATE TABLE IF NOT EXISTS subak_mark (
    Applier INTEGER PRIMARY KEY
);

-- Notes of the triggers, for one INSERT OR REPLACE / UPDATE OR REPLACE: the rows that it may delete without firing a DELETE
-- trigger. Cause: the unique value that collides; KeyValues: the row's key as a JSON array, to look whether the row is still there.
-- Between two statements the notes mean nothing and may be deleted.
CREATE TABLE IF NOT EXISTS subak_replaced (
    TableName TEXT NOT NULL,
    Cause TEXT NOT NULL,
    RowKey TEXT NOT NULL,
    KeyValues TEXT NOT NULL,
    Image TEXT NOT NULL,
    PRIMARY KEY (TableName, Cause)
) WITHOUT ROWID;
