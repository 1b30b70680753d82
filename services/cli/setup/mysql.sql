-- Subak's user on MySQL: what it needs and no more. As an administrator, once.
-- A user of that name that is there already, from an earlier folder, keeps its password: ALTER USER ... IDENTIFIED BY the one below.
-- For another outlet on the same server: give this one's another name, here and in database-url.
CREATE USER IF NOT EXISTS 'subak'@'%' IDENTIFIED BY '{{password}}';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, TRIGGER, LOCK TABLES ON `{{database}}`.* TO 'subak'@'%';
-- so that each transaction is told by itself:
GRANT SELECT ON performance_schema.events_transactions_current TO 'subak'@'%';
-- needed only while the binary log is on:
SET PERSIST log_bin_trust_function_creators = 1;
