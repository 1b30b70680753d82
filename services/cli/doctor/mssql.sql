-- What `subak doctor` asks a SQL Server. It changes nothing: what it tries is rolled back. One question to a statement, however alike
-- they are: a server that lacks a column answers all the others.

-- version: what came with SQL Server 2017
SELECT STRING_AGG(w.word, ',') FROM (SELECT 'a' AS word) AS w;

-- clock: the server's time, in µs since 1970 UTC
SELECT DATEDIFF_BIG(MICROSECOND, '1970-01-01', SYSUTCDATETIME());

-- user: the user of Subak in this database
SELECT USER_NAME();

-- settings: the server's settings that matter
SELECT CAST(name AS NVARCHAR(64)) AS setting, CAST(value_in_use AS BIGINT) AS value_
FROM sys.configurations
WHERE name IN ('nested triggers', 'disallow results from triggers');

-- nocount: whether the server's `user options` keep it from saying how many rows were changed
SELECT @@OPTIONS & 512;

-- database: the database's settings that matter
SELECT snapshot_isolation_state AS snapshots, is_read_committed_snapshot_on AS committed, is_recursive_triggers_on AS recursive_
FROM sys.databases
WHERE database_id = DB_ID();

-- triggers: every trigger on a table
SELECT
    g.name AS name, s.name AS schema_name_, t.name AS table_name_, g.is_instead_of_trigger AS instead_of,
    g.is_disabled AS is_disabled, m.definition AS body
FROM sys.triggers AS g
INNER JOIN sys.tables AS t ON t.object_id = g.parent_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
LEFT JOIN sys.sql_modules AS m ON m.object_id = g.object_id
WHERE g.parent_class = 1
ORDER BY s.name, t.name, g.name;

-- first_triggers: those that have been declared the first of their table
SELECT g.name AS name, s.name AS schema_name_, t.name AS table_name_, e.type_desc AS event_
FROM sys.trigger_events AS e
INNER JOIN sys.triggers AS g ON g.object_id = e.object_id
INNER JOIN sys.tables AS t ON t.object_id = g.parent_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE e.is_first = 1 AND g.parent_class = 1
ORDER BY s.name, t.name, g.name;

-- owners: whose the application's tables are
SELECT s.name AS schema_name_, t.name AS table_name_, p.name AS owner_
FROM sys.tables AS t
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
INNER JOIN sys.database_principals AS p ON p.principal_id = COALESCE(t.principal_id, s.principal_id);

-- own_owner: whose Subak's tables are
SELECT p.name FROM sys.schemas AS s INNER JOIN sys.database_principals AS p ON p.principal_id = s.principal_id WHERE s.name = 'subak';

-- identities: how far each IDENTITY has come
SELECT
    s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_, y.name AS type_name_, c.precision AS digits,
    CAST(c.seed_value AS DECIMAL(38, 0)) AS seed, CAST(c.increment_value AS DECIMAL(38, 0)) AS step,
    CAST(c.last_value AS DECIMAL(38, 0)) AS last_
FROM sys.identity_columns AS c
INNER JOIN sys.tables AS t ON t.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
INNER JOIN sys.types AS y ON y.user_type_id = c.system_type_id
ORDER BY s.name, t.name;

-- defaults: what a column gets when no value is given
SELECT s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_, d.definition AS definition
FROM sys.default_constraints AS d
INNER JOIN sys.columns AS c ON c.object_id = d.parent_object_id AND c.column_id = d.parent_column_id
INNER JOIN sys.tables AS t ON t.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
ORDER BY s.name, t.name, c.column_id;

-- collations: how texts are compared, and what they can hold
SELECT
    s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_, y.name AS type_name_, c.collation_name AS collation_,
    CAST(COLLATIONPROPERTY(c.collation_name, 'CodePage') AS INT) AS code_page
FROM sys.columns AS c
INNER JOIN sys.tables AS t ON t.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
INNER JOIN sys.types AS y ON y.user_type_id = c.system_type_id
WHERE c.collation_name IS NOT NULL
ORDER BY s.name, t.name, c.column_id;

-- nullable_uniques: unique indexes in which NULL is a value like others
SELECT s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_, i.name AS index_name_
FROM sys.indexes AS i
INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id
INNER JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id
INNER JOIN sys.tables AS t ON t.object_id = i.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE i.is_unique = 1 AND i.is_primary_key = 0 AND i.has_filter = 0 AND x.is_included_column = 0 AND c.is_nullable = 1
ORDER BY s.name, t.name, i.index_id, x.key_ordinal;

-- cdc: change data capture
SELECT name FROM sys.databases WHERE database_id = DB_ID() AND is_cdc_enabled = 1;

-- change_tracking: change tracking
SELECT s.name AS schema_name_, t.name AS table_name_
FROM sys.change_tracking_tables AS k
INNER JOIN sys.tables AS t ON t.object_id = k.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id;

-- replicated: tables of a transactional or snapshot publication
SELECT s.name AS schema_name_, t.name AS table_name_
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_replicated = 1 OR t.is_published = 1;

-- merged: tables of a merge publication
SELECT s.name AS schema_name_, t.name AS table_name_
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_merge_published = 1;

-- temporal: system-versioned tables
SELECT s.name AS schema_name_, t.name AS table_name_
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.temporal_type = 2;

-- memory: memory-optimized tables
SELECT s.name AS schema_name_, t.name AS table_name_
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_memory_optimized = 1;

-- filetables: tables whose rows are files
SELECT s.name AS schema_name_, t.name AS table_name_
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_filetable = 1;

-- graph: nodes and edges
SELECT s.name AS schema_name_, t.name AS table_name_
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_node = 1 OR t.is_edge = 1;

-- column_sets: sparse columns that can be written in two ways
SELECT s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_
FROM sys.columns AS c
INNER JOIN sys.tables AS t ON t.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE c.is_column_set = 1;

-- filestreams: columns whose values are files
SELECT s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_
FROM sys.columns AS c
INNER JOIN sys.tables AS t ON t.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE c.is_filestream = 1;

-- masked: columns that some users see masked
SELECT s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_
FROM sys.columns AS c
INNER JOIN sys.tables AS t ON t.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE c.is_masked = 1;

-- encrypted: columns that only clients can read
SELECT s.name AS schema_name_, t.name AS table_name_, c.name AS column_name_
FROM sys.columns AS c
INNER JOIN sys.tables AS t ON t.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE c.encryption_type IS NOT NULL;

-- policies: tables of which not everybody sees every row
SELECT DISTINCT s.name AS schema_name_, t.name AS table_name_
FROM sys.security_policies AS p
INNER JOIN sys.security_predicates AS r ON r.object_id = p.object_id
INNER JOIN sys.tables AS t ON t.object_id = r.target_object_id
INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE p.is_enabled = 1;

-- may_database: a right on the whole database
SELECT
    CASE
        WHEN USER_NAME() = 'dbo' OR IS_SRVROLEMEMBER('sysadmin') = 1 THEN 1
        ELSE HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', :right)
    END;

-- may_table: a right on a table
SELECT HAS_PERMS_BY_NAME(:name, 'OBJECT', :right);

-- there: whether Subak's schema and its tables are there, as far as this user may know
SELECT SCHEMA_ID('subak') AS schema_, OBJECT_ID('subak.CloudQuery') AS tables_;

-- try_schema: may it create the schema, in dbo's name
CREATE SCHEMA subak AUTHORIZATION dbo;

-- try_create: may it create a table there
CREATE TABLE subak.subak_doctor (Id BIGINT NOT NULL PRIMARY KEY);

-- try_sequence: and a sequence
CREATE SEQUENCE subak.subak_doctor_id AS BIGINT START WITH 1 INCREMENT BY 1;

-- try_own: and use what is there
UPDATE subak.CloudQuery SET ExportFlag = ExportFlag WHERE 1 = 0;
