-- What `subak doctor` asks a MySQL or MariaDB server. It changes nothing: what it tries cannot succeed for another reason.

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

-- variables: the server's settings that matter
SHOW GLOBAL VARIABLES WHERE Variable_name IN (
    'auto_increment_increment', 'auto_increment_offset', 'binlog_format', 'log_bin', 'max_allowed_packet'
);

-- clock: the server's time, in seconds since 1970 UTC
SELECT UNIX_TIMESTAMP(NOW(6));

-- try_table: refused for lack of a privilege, or else because that table is not there
CREATE TABLE subak_doctor LIKE subak_doctor_absent;

-- try_trigger: refused for lack of a privilege, for the binary log, or else because that table is not there
CREATE TRIGGER subak_doctor_ai AFTER INSERT ON subak_doctor_absent FOR EACH ROW SET @subak_doctor = 1;

-- try_lock: a trigger is replaced under a lock, so that no change slips through
LOCK TABLES subak_doctor_absent READ;

-- try_transactions: whether a trigger could learn the name of its transaction
SELECT EVENT_ID FROM performance_schema.events_transactions_current LIMIT 1;
