-- What `subak doctor` asks a MySQL or MariaDB server. It changes nothing but a scratch table of its own, which it drops.

-- triggers: the application's triggers in this database
SELECT TRIGGER_NAME AS Name, EVENT_OBJECT_TABLE AS TableName, ACTION_STATEMENT AS Body
FROM information_schema.TRIGGERS
WHERE TRIGGER_SCHEMA = DATABASE()
ORDER BY TRIGGER_NAME;

-- events: enabled events of this database
SELECT EVENT_NAME AS Name
FROM information_schema.EVENTS
WHERE EVENT_SCHEMA = DATABASE() AND STATUS = 'ENABLED'
ORDER BY EVENT_NAME;

-- engines: tables of this database that are not InnoDB's
SELECT TABLE_NAME AS Name, ENGINE AS Engine
FROM information_schema.TABLES
WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB'
ORDER BY TABLE_NAME;

-- variables: the server's settings that matter
SHOW GLOBAL VARIABLES WHERE Variable_name IN (
    'auto_increment_increment', 'auto_increment_offset', 'binlog_format', 'log_bin', 'max_allowed_packet',
    'performance_schema', 'lower_case_table_names'
);

-- clock: the server's time, in seconds since 1970 UTC
SELECT UNIX_TIMESTAMP(NOW(6));

-- drop_scratch: what an earlier run may have left
DROP TABLE IF EXISTS subak_doctor;

-- create_scratch: may it create a table
CREATE TABLE subak_doctor (Id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB;

-- create_trigger: may it create a trigger
CREATE TRIGGER subak_doctor_ai AFTER INSERT ON subak_doctor FOR EACH ROW SET @subak_doctor = NEW.Id;
