-- Subak's user on MariaDB: what it needs and no more. As an administrator, once.
CREATE USER IF NOT EXISTS 'subak'@'%' IDENTIFIED BY '{{password}}';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, TRIGGER ON `{{database}}`.* TO 'subak'@'%';
-- needed only while the binary log is on; also in the server's configuration file, under [mariadb]:
SET GLOBAL log_bin_trust_function_creators = 1;
