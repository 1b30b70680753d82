-- Subak's user on MySQL: what it needs and no more. As an administrator, once.
CREATE USER IF NOT EXISTS 'subak'@'%' IDENTIFIED BY '{{password}}';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, TRIGGER, LOCK TABLES ON `{{database}}`.* TO 'subak'@'%';
-- so that each transaction is told by itself:
GRANT SELECT ON performance_schema.events_transactions_current TO 'subak'@'%';
-- needed only while the binary log is on:
SET PERSIST log_bin_trust_function_creators = 1;
