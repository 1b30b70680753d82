-- The hub's queue: MySQL 8.0+, MariaDB 10.6+. Schema version 2.
--
-- For the operator: the body of a batch is stored once (`subak_batch`, `subak_batch_part`), and one narrow row of `subak_delivery`
-- says that an outlet is owed it. The hub never opens an outlet's database. Times are microseconds since 1970, UTC.

-- What the hub knows of itself: one row per fact (schema version, its own id, paused or not).
CREATE TABLE IF NOT EXISTS subak_state (
    Name VARCHAR(64) NOT NULL PRIMARY KEY,
    Value VARCHAR(255) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- One row: the last sequence given to a batch. It is taken with SET Last = n WHERE Last = n - 1, in the transaction that stores
-- the batch, so that sequence order is commit order and a second hub on this database cannot store anything.
CREATE TABLE IF NOT EXISTS subak_counter (
    Id TINYINT NOT NULL PRIMARY KEY,
    Last BIGINT UNSIGNED NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The outlets. Epoch, Number and Digest name the last batch stored of each; LastSequence the last delivery it is owed. AppliedEpoch:
-- that of its database, as its applier said last. StableSeen: all it captured before it had executed up to there is executed everywhere.
-- PurgedSequence: the last batch, owed to it or its own, that is purged; PurgedEpoch: the epoch of the last of its own.
-- ResyncAt: since when it has been given up, and why (it was away for too long). SkewMicros: the hub's clock less that of its database.
CREATE TABLE IF NOT EXISTS subak_outlet (
    Name VARCHAR(64) NOT NULL PRIMARY KEY,
    Company VARCHAR(255) NOT NULL DEFAULT '',
    Place VARCHAR(255) NOT NULL DEFAULT '',
    AddedAt BIGINT NOT NULL,
    RemovedAt BIGINT,
    Epoch VARCHAR(32) NOT NULL DEFAULT '',
    Number BIGINT UNSIGNED NOT NULL DEFAULT 0,
    Digest BINARY(32) NOT NULL,
    LastSequence BIGINT UNSIGNED NOT NULL DEFAULT 0,
    Online TINYINT NOT NULL DEFAULT 0,
    SeenAt BIGINT,
    Conflicts BIGINT UNSIGNED NOT NULL DEFAULT 0,
    Quarantined BIGINT UNSIGNED NOT NULL DEFAULT 0,
    AppliedEpoch VARCHAR(32) NOT NULL DEFAULT '',
    StableSeen BIGINT UNSIGNED NOT NULL DEFAULT 0,
    PurgedSequence BIGINT UNSIGNED NOT NULL DEFAULT 0,
    PurgedEpoch VARCHAR(32) NOT NULL DEFAULT '',
    ResyncAt BIGINT,
    ResyncReason VARCHAR(255) NOT NULL DEFAULT '',
    SkewMicros BIGINT
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- What captures said last, at most two rows each, the older one until it holds: all that was committed at Outlet before it had
-- executed delivery Seen is in its batches of Epoch up to Number.
CREATE TABLE IF NOT EXISTS subak_progress (
    Outlet VARCHAR(64) NOT NULL,
    Seen BIGINT UNSIGNED NOT NULL,
    Epoch VARCHAR(32) NOT NULL,
    Number BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (Outlet, Seen)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Outlet takes nothing from Origin. It breaks convergence by intent.
CREATE TABLE IF NOT EXISTS subak_ignore (
    Outlet VARCHAR(64) NOT NULL,
    Origin VARCHAR(64) NOT NULL,
    PRIMARY KEY (Outlet, Origin)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The batches, in the order the hub committed them.
CREATE TABLE IF NOT EXISTS subak_batch (
    Sequence BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    Origin VARCHAR(64) NOT NULL,
    Epoch VARCHAR(32) NOT NULL,
    Number BIGINT UNSIGNED NOT NULL,
    Previous BINARY(32) NOT NULL,
    Digest BINARY(32) NOT NULL,
    Changes INT UNSIGNED NOT NULL,
    Transactions INT UNSIGNED NOT NULL,
    Bytes BIGINT UNSIGNED NOT NULL,
    Parts INT UNSIGNED NOT NULL,
    StoredAt BIGINT NOT NULL,
    UNIQUE INDEX BatchName (Origin, Epoch, Number),
    INDEX BatchStored (StoredAt)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The bytes of the batches. Parts of a large batch are stored as they come; they count once the batch has its row above.
CREATE TABLE IF NOT EXISTS subak_batch_part (
    Origin VARCHAR(64) NOT NULL,
    Epoch VARCHAR(32) NOT NULL,
    Number BIGINT UNSIGNED NOT NULL,
    Part INT UNSIGNED NOT NULL,
    Body LONGBLOB NOT NULL,
    PRIMARY KEY (Origin, Epoch, Number, Part)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Who is owed what. ExportFlag 1: the outlet has executed it. Previous: the delivery before this one to the same outlet (0: none).
CREATE TABLE IF NOT EXISTS subak_delivery (
    Outlet VARCHAR(64) NOT NULL,
    Sequence BIGINT UNSIGNED NOT NULL,
    Previous BIGINT UNSIGNED NOT NULL,
    ExportFlag TINYINT NOT NULL DEFAULT 0,
    ExecutedAt BIGINT,
    PRIMARY KEY (Outlet, Sequence),
    INDEX DeliveryWaiting (Outlet, ExportFlag, Sequence)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- What the outlets reported as quarantined.
CREATE TABLE IF NOT EXISTS subak_quarantined (
    Outlet VARCHAR(64) NOT NULL,
    Sequence BIGINT UNSIGNED NOT NULL,
    Position INT UNSIGNED NOT NULL,
    Code VARCHAR(32) NOT NULL,
    Reason TEXT NOT NULL,
    ReportedAt BIGINT NOT NULL,
    PRIMARY KEY (Outlet, Sequence, Position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The conflicts that the outlets decided, the first hundred of each delivery, images cut off; the outlets keep them whole.
CREATE TABLE IF NOT EXISTS subak_conflict (
    Outlet VARCHAR(64) NOT NULL,
    Sequence BIGINT UNSIGNED NOT NULL,
    Position INT UNSIGNED NOT NULL,
    TableName VARCHAR(64) NOT NULL,
    RowKey MEDIUMTEXT NOT NULL,
    Rule VARCHAR(32) NOT NULL,
    Winner VARCHAR(32) NOT NULL,
    LocalStamp BIGINT UNSIGNED NOT NULL,
    LocalOrigin VARCHAR(64) NOT NULL,
    LocalImage MEDIUMTEXT,
    IncomingStamp BIGINT UNSIGNED NOT NULL,
    IncomingOrigin VARCHAR(64) NOT NULL,
    IncomingImage MEDIUMTEXT,
    ReportedAt BIGINT NOT NULL,
    PRIMARY KEY (Outlet, Sequence, Position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Why the conflict rules do not fit an outlet's tables, one sentence each, as it reported last.
CREATE TABLE IF NOT EXISTS subak_misfit (
    Outlet VARCHAR(64) NOT NULL,
    Position INT UNSIGNED NOT NULL,
    Reason TEXT NOT NULL,
    PRIMARY KEY (Outlet, Position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The tables that each outlet synchronises, as it reported last: where the fingerprints differ, so do the columns.
CREATE TABLE IF NOT EXISTS subak_table (
    Outlet VARCHAR(64) NOT NULL,
    TableName VARCHAR(64) NOT NULL,
    Fingerprint VARCHAR(128) NOT NULL,
    PRIMARY KEY (Outlet, TableName)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
