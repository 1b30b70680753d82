-- What `subak doctor` asks an SQLite database. It changes nothing: the scratch table is rolled back.

-- triggers: the application's triggers
SELECT name AS Name, tbl_name AS TableName, sql AS Body
FROM sqlite_master
WHERE type = 'trigger'
ORDER BY name;

-- journal: how this file is written
PRAGMA journal_mode;

-- orphans: rows whose parent is missing already
PRAGMA foreign_key_check;

-- clock: SQLite has no clock but this machine's
SELECT CAST(strftime('%s', 'now') AS REAL);

-- create_scratch: may it create a table
CREATE TABLE subak_doctor (Id INTEGER NOT NULL PRIMARY KEY);

-- create_trigger: may it create a trigger
CREATE TRIGGER subak_doctor_ai AFTER INSERT ON subak_doctor BEGIN SELECT 1; END;
