-- The hub's queue: SQLite 3.38+. Schema version 2.
--
-- For the operator: the body of a batch is stored once (`subak_batch`, `subak_batch_part`), and one narrow row of `subak_delivery`
-- says that an outlet is owed it. The hub never opens an outlet's database. Times are microseconds since 1970, UTC.

-- What the hub knows of itself: one row per fact (schema version, its own id, paused or not).
CREATE TABLE IF NOT EXISTS subak_state (
    Name TEXT NOT NULL PRIMARY KEY,
    Value TEXT NOT NULL
);

-- One row: the last sequence given to a batch. It is taken with SET Last = n WHERE Last = n - 1, in the transaction that stores
-- the batch, so that sequence order is commit order and a second hub on this database cannot store anything.
CREATE TABLE IF NOT EXISTS subak_counter (
    Id INTEGER NOT NULL PRIMARY KEY,
    Last INTEGER NOT NULL
);

-- The outlets. Epoch, Number and Digest name the last batch stored of each; LastSequence the last delivery it is owed. AppliedEpoch:
-- that of its database, as its applier said last. StableSeen: all it captured before it had executed up to there is executed everywhere.
-- PurgedSequence: the last batch, owed to it or its own, that is purged; PurgedEpoch: the epoch of the last of its own.
-- ResyncAt: since when it has been given up, and why (it was away for too long). SkewMicros: the hub's clock less that of its database.
CREATE TABLE IF NOT EXISTS subak_outlet (
    Name TEXT NOT NULL PRIMARY KEY,
    Company TEXT NOT NULL DEFAULT '',
    Place TEXT NOT NULL DEFAULT '',
    AddedAt INTEGER NOT NULL,
    RemovedAt INTEGER,
    Epoch TEXT NOT NULL DEFAULT '',
    Number INTEGER NOT NULL DEFAULT 0,
    Digest BLOB NOT NULL,
    LastSequence INTEGER NOT NULL DEFAULT 0,
    Online INTEGER NOT NULL DEFAULT 0,
    SeenAt INTEGER,
    Conflicts INTEGER NOT NULL DEFAULT 0,
    Quarantined INTEGER NOT NULL DEFAULT 0,
    AppliedEpoch TEXT NOT NULL DEFAULT '',
    StableSeen INTEGER NOT NULL DEFAULT 0,
    PurgedSequence INTEGER NOT NULL DEFAULT 0,
    PurgedEpoch TEXT NOT NULL DEFAULT '',
    ResyncAt INTEGER,
    ResyncReason TEXT NOT NULL DEFAULT '',
    SkewMicros INTEGER
);

-- What captures said last, at most two rows each, the older one until it holds: all that was committed at Outlet before it had
-- executed delivery Seen is in its batches of Epoch up to Number.
CREATE TABLE IF NOT EXISTS subak_progress (
    Outlet TEXT NOT NULL,
    Seen INTEGER NOT NULL,
    Epoch TEXT NOT NULL,
    Number INTEGER NOT NULL,
    PRIMARY KEY (Outlet, Seen)
);

-- Outlet takes nothing from Origin. It breaks convergence by intent.
CREATE TABLE IF NOT EXISTS subak_ignore (
    Outlet TEXT NOT NULL,
    Origin TEXT NOT NULL,
    PRIMARY KEY (Outlet, Origin)
);

-- The batches, in the order the hub committed them.
CREATE TABLE IF NOT EXISTS subak_batch (
    Sequence INTEGER PRIMARY KEY,
    Origin TEXT NOT NULL,
    Epoch TEXT NOT NULL,
    Number INTEGER NOT NULL,
    Previous BLOB NOT NULL,
    Digest BLOB NOT NULL,
    Changes INTEGER NOT NULL,
    Transactions INTEGER NOT NULL,
    Bytes INTEGER NOT NULL,
    Parts INTEGER NOT NULL,
    StoredAt INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS BatchName ON subak_batch (Origin, Epoch, Number);
CREATE INDEX IF NOT EXISTS BatchStored ON subak_batch (StoredAt);

-- The bytes of the batches. Parts of a large batch are stored as they come; they count once the batch has its row above.
CREATE TABLE IF NOT EXISTS subak_batch_part (
    Origin TEXT NOT NULL,
    Epoch TEXT NOT NULL,
    Number INTEGER NOT NULL,
    Part INTEGER NOT NULL,
    Body BLOB NOT NULL,
    PRIMARY KEY (Origin, Epoch, Number, Part)
);

-- Who is owed what. ExportFlag 1: the outlet has executed it. Previous: the delivery before this one to the same outlet (0: none).
CREATE TABLE IF NOT EXISTS subak_delivery (
    Outlet TEXT NOT NULL,
    Sequence INTEGER NOT NULL,
    Previous INTEGER NOT NULL,
    ExportFlag INTEGER NOT NULL DEFAULT 0,
    ExecutedAt INTEGER,
    PRIMARY KEY (Outlet, Sequence)
);
CREATE INDEX IF NOT EXISTS DeliveryWaiting ON subak_delivery (Outlet, ExportFlag, Sequence);

-- What the outlets reported as quarantined.
CREATE TABLE IF NOT EXISTS subak_quarantined (
    Outlet TEXT NOT NULL,
    Sequence INTEGER NOT NULL,
    Position INTEGER NOT NULL,
    Code TEXT NOT NULL,
    Reason TEXT NOT NULL,
    ReportedAt INTEGER NOT NULL,
    PRIMARY KEY (Outlet, Sequence, Position)
);

-- The conflicts that the outlets decided, the first hundred of each delivery, images cut off; the outlets keep them whole.
CREATE TABLE IF NOT EXISTS subak_conflict (
    Outlet TEXT NOT NULL,
    Sequence INTEGER NOT NULL,
    Position INTEGER NOT NULL,
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
    ReportedAt INTEGER NOT NULL,
    PRIMARY KEY (Outlet, Sequence, Position)
);

-- Why the conflict rules do not fit an outlet's tables, one sentence each, as it reported last.
CREATE TABLE IF NOT EXISTS subak_misfit (
    Outlet TEXT NOT NULL,
    Position INTEGER NOT NULL,
    Reason TEXT NOT NULL,
    PRIMARY KEY (Outlet, Position)
);

-- The tables that each outlet synchronises, as it reported last: where the fingerprints differ, so do the columns.
CREATE TABLE IF NOT EXISTS subak_table (
    Outlet TEXT NOT NULL,
    TableName TEXT NOT NULL,
    Fingerprint TEXT NOT NULL,
    PRIMARY KEY (Outlet, TableName)
);
